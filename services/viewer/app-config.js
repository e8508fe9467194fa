// OHIF's configuration: our DICOMweb and nothing else. The browser's session cookie authenticates.

// Whether a report draws its measurements into images. OHIF's view of measurements fails on a report that measures
// segments and has no coordinates; build.py lets it ask this, so that such a report is shown as text.
window.insitu = {
  hasCoordinates: items =>
    [].concat(items || []).some(
      item => item && (/^SCOORD/.test(item.ValueType) || window.insitu.hasCoordinates(item.ContentSequence))
    ),
};

window.config = {
  routerBasename: '/viewer',
  extensions: [],
  modes: [],
  customizationService: [{ 'ohif.tours': { $set: [] } }],
  showStudyList: true,
  maxNumberOfWebWorkers: 3,
  showWarningMessageForCrossOrigin: false,
  showCPUFallbackMessage: true,
  showLoadingIndicator: true,
  strictZSpacingForVolumeViewport: true,
  groupEnabledModesFirst: true,
  // A segmentation that is opened is shown at once, without asking whether to load it.
  disableConfirmationPrompts: true,
  // The platform says itself, in every result, that a physician must confirm it.
  investigationalUseDialog: { option: 'never' },
  showErrorDetails: 'production',
  maxNumRequests: { interaction: 20, thumbnail: 4, prefetch: 8 },
  defaultDataSourceName: 'insitu',
  dataSources: [
    {
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'insitu',
      configuration: {
        friendlyName: 'Insitu',
        name: 'insitu',
        wadoUriRoot: '/dicom-web',
        qidoRoot: '/dicom-web',
        wadoRoot: '/dicom-web',
        qidoSupportsIncludeField: true,
        supportsReject: false,
        supportsStow: false,
        dicomUploadEnabled: false,
        imageRendering: 'wadors',
        thumbnailRendering: 'wadors',
        enableStudyLazyLoad: true,
        supportsFuzzyMatching: false,
        supportsWildcard: true,
        omitQuotationForMultipartRequest: false,
        bulkDataURI: { enabled: true, relativeResolution: 'studies' },
      },
    },
  ],
  httpErrorHandler: error => {
    // The session has ended: log in and come back.
    if (error && error.status === 401) {
      const here = window.location.pathname + window.location.search;
      window.location.assign('/login?next=' + encodeURIComponent(here));
    }
  },
  whiteLabeling: {
    createLogoComponentFn: React =>
      React.createElement(
        'a',
        { href: '/', title: 'Back to the start page', style: { color: '#e6edf3', fontSize: '20px', fontWeight: 600, letterSpacing: '0.02em' } },
        'Insitu'
      ),
  },
};
