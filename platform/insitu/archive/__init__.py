"""The research PACS: the one write path, blobs, index, completeness, retrieval, integrity."""

import logging
import warnings

# pydicom says which value of an object it does not like, in warnings and in its log: patient data, which must not reach ours.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
