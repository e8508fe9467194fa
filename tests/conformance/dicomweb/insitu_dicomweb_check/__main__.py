"""`python -m insitu_dicomweb_check`."""

import sys

from .command import main

sys.exit(main())
