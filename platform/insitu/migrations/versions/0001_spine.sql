-- Times are timestamptz in UTC. Projects are keyed by their name. UIDs are text without padding.

-- projects and identity ------------------------------------------------------

CREATE TABLE project (
    name          text PRIMARY KEY CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    title         text NOT NULL DEFAULT '',
    weight        double precision NOT NULL DEFAULT 1 CHECK (weight >= 0.001 AND weight <= 1000),  -- of its runs beside other projects'
    runs_at_once  integer CHECK (runs_at_once > 0),      -- inference runs; NULL: no limit of its own
    created_at    timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE account (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name           text NOT NULL UNIQUE CHECK (name ~ '^[A-Za-z0-9._@-]{1,64}$'),
    password_hash  text NOT NULL,                       -- argon2id
    site_admin     boolean NOT NULL DEFAULT false,
    disabled       boolean NOT NULL DEFAULT false,
    failed_logins  integer NOT NULL DEFAULT 0,
    locked_until   timestamptz,
    created_at     timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE membership (
    account  uuid NOT NULL REFERENCES account ON DELETE CASCADE,
    project  text NOT NULL REFERENCES project,
    role     text NOT NULL CHECK (role IN ('reader', 'reviewer', 'researcher', 'lead')),
    PRIMARY KEY (account, project)
);

CREATE TABLE session (                                   -- of a browser
    token_hash  bytea PRIMARY KEY,                       -- SHA-256 of the cookie's value
    account     uuid NOT NULL REFERENCES account ON DELETE CASCADE,
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL
);

CREATE TABLE api_token (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name        text NOT NULL,
    token_hash  bytea NOT NULL UNIQUE,
    account     uuid NOT NULL REFERENCES account ON DELETE CASCADE,
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz,
    last_used   timestamptz,
    UNIQUE (account, name)
);

-- audit: rows are appended, then sealed into a hash chain by one sealer ---------

CREATE TABLE audit_event (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor     text NOT NULL,                             -- account name, token, system process
    action    text NOT NULL,                             -- login, view, export, run, rule-change, ...
    kind      text NOT NULL DEFAULT '',                  -- kind of resource: study, series, run, account, ...
    resource  text NOT NULL DEFAULT '',                  -- its identifier (UID, name), never a patient's name
    project   text,
    outcome   text NOT NULL DEFAULT 'success' CHECK (outcome IN ('success', 'refused', 'failure')),
    detail    jsonb NOT NULL DEFAULT '{}'
);

CREATE TABLE audit_seal (
    sequence  bigint PRIMARY KEY,                        -- 1, 2, 3, ... without gaps
    event     bigint NOT NULL UNIQUE REFERENCES audit_event,
    hash      bytea NOT NULL                             -- SHA-256(previous hash || canonical event)
);

CREATE TABLE audit_pending (                             -- events that wait for the sealer; their numbers do not tell the
    event  bigint PRIMARY KEY                            -- order of commits, so "all above the last sealed" would miss some
);
CREATE FUNCTION note_pending() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit_pending (event) VALUES (NEW.id);
    RETURN NULL;
END $$;
CREATE TRIGGER audit_event_pending AFTER INSERT ON audit_event FOR EACH ROW EXECUTE FUNCTION note_pending();

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_event
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_seal_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_seal
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- archive ------------------------------------------------------------------------

CREATE TABLE receipt (                                   -- one per association or request that stores; also a durable blob
    id          uuid PRIMARY KEY,
    arrived_at  timestamptz NOT NULL,
    channel     text NOT NULL CHECK (channel IN ('dimse', 'stow', 'import', 'result', 'retrieve')),
    calling_ae  text,
    called_ae   text,
    peer        text,                                    -- address
    principal   text,                                    -- who, for channels with a login
    project     text,                                    -- initial project, where the channel names one
    execution   text                                     -- execution whose results these are
);

CREATE TABLE association (                               -- an open receipt, leased by the process that holds it
    receipt       uuid PRIMARY KEY REFERENCES receipt,
    leased_until  timestamptz NOT NULL,
    closed_at     timestamptz
);
CREATE INDEX association_open ON association (leased_until) WHERE closed_at IS NULL;

CREATE TABLE study (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    study_instance_uid  text NOT NULL UNIQUE,
    patient_id          text COLLATE "C" NOT NULL DEFAULT '',
    attributes          jsonb NOT NULL DEFAULT '{}',     -- DICOM JSON of patient and study level, from the first object
    created_at          timestamptz NOT NULL DEFAULT now(),
    -- what searches are narrowed by
    study_date          text COLLATE "C" GENERATED ALWAYS AS (attributes #>> '{00080020,Value,0}') STORED,
    patient_name        text COLLATE "C" GENERATED ALWAYS AS (lower(attributes #>> '{00100010,Value,0,Alphabetic}')) STORED,
    patient_ideographic text COLLATE "C" GENERATED ALWAYS AS (lower(attributes #>> '{00100010,Value,0,Ideographic}')) STORED,
    patient_phonetic    text COLLATE "C" GENERATED ALWAYS AS (lower(attributes #>> '{00100010,Value,0,Phonetic}')) STORED
);
CREATE INDEX study_patient ON study (patient_id, id);
CREATE INDEX study_by_date ON study (study_date, id);
CREATE INDEX study_by_name ON study (patient_name);
CREATE INDEX study_by_ideographic ON study (patient_ideographic) WHERE patient_ideographic IS NOT NULL;
CREATE INDEX study_by_phonetic ON study (patient_phonetic) WHERE patient_phonetic IS NOT NULL;
CREATE INDEX study_by_any ON study USING gin (attributes jsonb_path_ops);
-- names that are asked for with a leading wild card, by every three characters in a row
CREATE EXTENSION IF NOT EXISTS pg_trgm;
CREATE INDEX study_in_name ON study USING gin (patient_name gin_trgm_ops);
CREATE INDEX study_in_ideographic ON study USING gin (patient_ideographic gin_trgm_ops) WHERE patient_ideographic IS NOT NULL;
CREATE INDEX study_in_phonetic ON study USING gin (patient_phonetic gin_trgm_ops) WHERE patient_phonetic IS NOT NULL;

CREATE TABLE series (
    id                   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    series_instance_uid  text NOT NULL UNIQUE,
    study                bigint NOT NULL REFERENCES study,
    modality             text NOT NULL DEFAULT '',
    attributes           jsonb NOT NULL DEFAULT '{}',    -- DICOM JSON of series level, from the first object
    created_at           timestamptz NOT NULL DEFAULT now(),
    -- the following are kept by the dispatcher, never on the path to "success"
    state                text NOT NULL DEFAULT 'receiving' CHECK (state IN ('receiving', 'complete')),
    revision             integer NOT NULL DEFAULT 0,     -- number of completions
    last_received_at     timestamptz,
    complete_after       timestamptz,                    -- deadline, moved by every new object
    execution            text,                           -- the execution that made it, for results
    superseded_by        text                            -- execution that replaced the one that made it
);
CREATE INDEX series_study ON series (study);
CREATE INDEX series_open ON series (complete_after) WHERE state = 'receiving';

CREATE TABLE series_project (                            -- a series belongs to projects by link, it is shared, not owned
    series    bigint NOT NULL REFERENCES series ON DELETE CASCADE,
    project   text NOT NULL REFERENCES project,
    added_at  timestamptz NOT NULL DEFAULT now(),
    added_by  text NOT NULL DEFAULT '',
    PRIMARY KEY (series, project)
);
CREATE INDEX series_project_by_project ON series_project (project, series);

-- Studies of which a project holds or once held a series. It only says where to look: series_project says what is visible.
-- Nothing is taken away before the study is, so no order of concurrent changes can make it too small.
CREATE TABLE study_project (
    project     text NOT NULL,
    study       bigint NOT NULL REFERENCES study ON DELETE CASCADE,
    study_date  text COLLATE "C",
    PRIMARY KEY (project, study)
);
CREATE INDEX study_project_by_date ON study_project (project, study_date, study);
CREATE INDEX study_project_study ON study_project (study);
CREATE FUNCTION note_study_project() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO study_project (project, study, study_date)
        SELECT NEW.project, st.id, st.study_date FROM series s JOIN study st ON st.id = s.study WHERE s.id = NEW.series
        ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER series_project_note AFTER INSERT ON series_project FOR EACH ROW EXECUTE FUNCTION note_study_project();
CREATE FUNCTION note_study_date() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE study_project SET study_date = NEW.study_date WHERE study = NEW.id;
    RETURN NULL;
END $$;
CREATE TRIGGER study_note_date AFTER UPDATE OF attributes ON study FOR EACH ROW
    WHEN (NEW.attributes IS DISTINCT FROM OLD.attributes) EXECUTE FUNCTION note_study_date();

CREATE TABLE instance (                                  -- narrow: one row per object
    id                   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sop_instance_uid     text NOT NULL UNIQUE,
    series               bigint NOT NULL REFERENCES series,
    sop_class_uid        text NOT NULL,
    transfer_syntax_uid  text NOT NULL,
    digest               bytea NOT NULL,                 -- SHA-256 of the data set after the file meta information
    blob_key             text NOT NULL UNIQUE,
    size                 bigint NOT NULL,                -- bytes of the file
    dataset_offset       integer NOT NULL,               -- byte at which the data set starts in the file
    receipt              uuid NOT NULL REFERENCES receipt,
    received_at          timestamptz NOT NULL DEFAULT now(),
    instance_number      integer,
    image_rows           integer,
    image_columns        integer,
    number_of_frames     integer
);
CREATE INDEX instance_series ON instance (series);

-- Searches are planned by statistics, and counting reads an index alone where the visibility map is fresh: soon after a bulk of objects.
ALTER TABLE study SET (autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
ALTER TABLE series SET (autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
ALTER TABLE series_project SET (autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
ALTER TABLE study_project SET (autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
ALTER TABLE instance SET (autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);

CREATE TABLE instance_metadata (                         -- full DICOM JSON without bulk data; derived, made per series by the dispatcher
    instance  bigint PRIMARY KEY REFERENCES instance ON DELETE CASCADE,
    body      jsonb NOT NULL
);

CREATE TABLE instance_sender (                           -- who else sent the very same object, by calling AE title; he may
    instance    bigint NOT NULL REFERENCES instance ON DELETE CASCADE,   -- ask for storage commitment of it too
    calling_ae  text NOT NULL,
    PRIMARY KEY (instance, calling_ae)
);

CREATE TABLE commitment_report (                         -- results of storage commitment that a node has yet to be told
    id               uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    node             text NOT NULL,                      -- name
    transaction_uid  text NOT NULL,
    result           jsonb NOT NULL,                     -- {committed: [[class, instance]], failed: [[class, instance, reason]]}
    attempts         integer NOT NULL DEFAULT 0,
    next_attempt     timestamptz NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX commitment_report_due ON commitment_report (next_attempt);

CREATE TABLE series_event (                              -- the outbox: "series dirty", appended in the store transaction
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    series   bigint NOT NULL,
    receipt  uuid NOT NULL
);

CREATE TABLE series_source (                             -- which receipts brought objects of a series; kept by the dispatcher
    series   bigint NOT NULL REFERENCES series ON DELETE CASCADE,
    receipt  uuid NOT NULL REFERENCES receipt,
    PRIMARY KEY (series, receipt)
);

CREATE TABLE series_revision (
    series          bigint NOT NULL REFERENCES series ON DELETE CASCADE,
    revision        integer NOT NULL,
    completed_at    timestamptz NOT NULL DEFAULT now(),
    instances       integer NOT NULL,
    bytes           bigint NOT NULL,
    content_digest  bytea NOT NULL,                      -- SHA-256 over the sorted (SOP Instance UID, digest)
    PRIMARY KEY (series, revision)
);

CREATE TABLE conflict (                                  -- another object under a known SOP Instance UID, kept for a person
    id                   uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    sop_instance_uid     text NOT NULL,
    digest               bytea NOT NULL,
    transfer_syntax_uid  text NOT NULL,
    blob_key             text NOT NULL UNIQUE,
    receipt              uuid NOT NULL REFERENCES receipt,
    at                   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (sop_instance_uid, digest, transfer_syntax_uid)
);

CREATE TABLE quarantine (                                -- what could not be archived, kept for a person
    id        uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    reason    text NOT NULL,                             -- what, which value, why
    blob_key  text NOT NULL UNIQUE,
    size      bigint NOT NULL,
    receipt   uuid NOT NULL REFERENCES receipt,
    at        timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE journal_due (                               -- entries of the journal that the dispatcher is to write, so that the
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,   -- transaction that made them need not wait for the disk
    event    text NOT NULL,
    content  jsonb NOT NULL
);

CREATE TABLE deletion (                                  -- what a person or a rule deleted; a rebuild leaves these objects out
    id                   uuid PRIMARY KEY,               -- names its entry in the journal
    at                   timestamptz NOT NULL,
    actor                text NOT NULL,
    reason               text NOT NULL,
    rule                 text,                           -- of the retention, where it asked for it
    study_instance_uid   text NOT NULL,                  -- what was asked for: a study, a series of it, or an instance
    series_instance_uid  text,
    sop_instance_uid     text,
    studies              integer NOT NULL,               -- what went
    series               integer NOT NULL,
    instances            integer NOT NULL,
    bytes                bigint NOT NULL,
    patient              bytea,                          -- SHA-256 of the Patient ID: by it the audit trail is still found
    keys                 text[]                          -- blobs that are to go; NULL once all is done
);
CREATE INDEX deletion_open ON deletion (at) WHERE keys IS NOT NULL;
CREATE INDEX deletion_study ON deletion (study_instance_uid);

CREATE TABLE hold (                                      -- a study that nobody may delete, nor any rule
    study_instance_uid  text PRIMARY KEY,
    reason              text NOT NULL,
    placed_by           text NOT NULL,
    placed_at           timestamptz NOT NULL
);

CREATE TABLE damage (                                    -- instances whose blob is lost or has rotted, until a good copy comes
    instance  bigint PRIMARY KEY REFERENCES instance ON DELETE CASCADE,
    kind      text NOT NULL CHECK (kind IN ('missing', 'rotten')),
    found_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE scrub_round (                               -- going through all objects; the newest goes on where it was left
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    started_at   timestamptz NOT NULL DEFAULT now(),
    position     bigint NOT NULL DEFAULT 0,              -- the last instance that was compared
    objects      bigint NOT NULL DEFAULT 0,
    bytes        bigint NOT NULL DEFAULT 0,
    finished_at  timestamptz
);

CREATE TABLE archive_statistic (                         -- counted now and then by the dispatcher, see statistic_state
    project    text,                                     -- NULL: the whole archive
    by         text NOT NULL CHECK (by IN ('all', 'modality', 'month')),
    value      text NOT NULL DEFAULT '',                 -- the modality, or the month (YYYY-MM) of arrival
    studies    bigint NOT NULL,
    series     bigint NOT NULL,
    instances  bigint NOT NULL,
    bytes      bigint NOT NULL,
    oldest     timestamptz,
    newest     timestamptz
);

CREATE TABLE statistic_state (                           -- one row
    taken_at  timestamptz NOT NULL,
    seconds   double precision NOT NULL                  -- that counting took
);

CREATE TABLE conflict_resolution (                       -- what became of second objects under a known UID
    id                    uuid PRIMARY KEY,              -- names its entry in the journal
    sop_instance_uid      text NOT NULL,
    at                    timestamptz NOT NULL,
    actor                 text NOT NULL,
    resolution            text NOT NULL CHECK (resolution IN ('keep', 'replace')),
    reason                text NOT NULL,
    digest                bytea NOT NULL,                -- of the object that was given up
    second_key            text NOT NULL,                 -- blob of the second object, where it stood aside
    given_up_key          text NOT NULL,
    done                  boolean NOT NULL DEFAULT false
);

-- nodes ------------------------------------------------------------------------------

CREATE TABLE node (                                      -- another system: PACS, workstation, DICOMweb server
    name                  text PRIMARY KEY CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    ae_title              text UNIQUE,
    host                  text,                          -- NULL: it calls us and is never called
    port                  integer,
    tls                   boolean NOT NULL DEFAULT false,
    certificate           text,                          -- SHA-256 fingerprint of the client certificate it must show
    networks              text[] NOT NULL DEFAULT '{}',  -- CIDR; none: the address of host
    projects              text[] NOT NULL DEFAULT '{}',  -- what it may find and retrieve; none: nothing
    maximum_associations  integer NOT NULL DEFAULT 1,
    retrieve_by           text NOT NULL DEFAULT 'get' CHECK (retrieve_by IN ('get', 'move')),
    url                   text,                          -- base URL of its DICOMweb service
    created_at            timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE transfer (                                  -- objects that are to be sent to a node
    id                   uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    node                 text NOT NULL,                  -- its name; history stays when the node goes
    way                  text NOT NULL CHECK (way IN ('dimse', 'stow')),
    study_instance_uid   text NOT NULL,                  -- what was asked for
    series_instance_uid  text,
    projects             text[] NOT NULL,                -- by which it was allowed
    requested_by         text NOT NULL,
    rule                 text,                           -- name of the rule that asked for it
    requested_at         timestamptz NOT NULL DEFAULT now(),
    state                text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'done', 'failed', 'cancelled')),
    attempts             integer NOT NULL DEFAULT 0,     -- in a row without any progress
    next_attempt         timestamptz NOT NULL DEFAULT now(),
    lease                uuid,                           -- of the worker that has it in hand
    leased_until         timestamptz,
    reason               text,                           -- one sentence for a person
    finished_at          timestamptz
);
CREATE INDEX transfer_due ON transfer (next_attempt) WHERE state = 'queued';
CREATE INDEX transfer_requested ON transfer (requested_at);

CREATE TABLE transfer_object (
    transfer          uuid NOT NULL REFERENCES transfer ON DELETE CASCADE,
    sop_instance_uid  text NOT NULL,
    state             text NOT NULL DEFAULT 'waiting'
                      CHECK (state IN ('waiting', 'sent', 'warning', 'failed', 'cancelled')),
    status            integer,                           -- DIMSE status, or the failure reason of STOW-RS, last told
    attempts          integer NOT NULL DEFAULT 0,
    next_attempt      timestamptz NOT NULL DEFAULT now(),
    sentence          text,                              -- what the status means
    at                timestamptz,                       -- of the last attempt
    PRIMARY KEY (transfer, sop_instance_uid)
);
CREATE INDEX transfer_object_sent ON transfer_object (sop_instance_uid);  -- what a rule has sent already
CREATE INDEX transfer_object_waiting ON transfer_object (transfer, next_attempt) WHERE state = 'waiting';

CREATE TABLE retrieval (                                 -- a study or series that is to be fetched from a node
    id                   uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    node                 text NOT NULL,
    way                  text NOT NULL CHECK (way IN ('get', 'move', 'wado')),
    study_instance_uid   text NOT NULL,
    series_instance_uid  text,
    project              text REFERENCES project,        -- where it goes; NULL: the default project
    off_peak             boolean NOT NULL,               -- only in the site's retrieval window
    requested_by         text NOT NULL,
    requested_at         timestamptz NOT NULL DEFAULT now(),
    state                text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'done', 'failed', 'cancelled')),
    attempts             integer NOT NULL DEFAULT 0,
    next_attempt         timestamptz NOT NULL DEFAULT now(),
    lease                uuid,
    leased_until         timestamptz,
    expected             integer,                        -- objects the node says it has
    present              integer NOT NULL DEFAULT 0,     -- of these in the archive
    reason               text,
    finished_at          timestamptz
);
CREATE INDEX retrieval_due ON retrieval (next_attempt) WHERE state = 'queued';
CREATE INDEX retrieval_requested ON retrieval (requested_at);

-- routing --------------------------------------------------------------------------

CREATE TABLE rule_set (
    version     integer PRIMARY KEY,                     -- 1, 2, 3, ...; the highest is in force
    body        jsonb NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  text NOT NULL
);

CREATE TABLE routing_decision (
    series     bigint NOT NULL REFERENCES series ON DELETE CASCADE,
    revision   integer NOT NULL,
    rule_set   integer REFERENCES rule_set,
    body       jsonb NOT NULL,                           -- decision with its trace
    at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (series, revision)
);

CREATE TABLE dataset (                                   -- collection that rules add series to; versions come with issue "datasets"
    project  text NOT NULL REFERENCES project,
    name     text NOT NULL,
    PRIMARY KEY (project, name)
);

CREATE TABLE dataset_series (
    project   text NOT NULL,
    dataset   text NOT NULL,
    series    bigint NOT NULL REFERENCES series ON DELETE CASCADE,
    added_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project, dataset, series),
    FOREIGN KEY (project, dataset) REFERENCES dataset (project, name)
);

-- algorithms and runs --------------------------------------------------------------

CREATE TABLE algorithm (
    digest        text PRIMARY KEY,                      -- sha256:... of the package
    name          text NOT NULL,
    version       text NOT NULL,
    manifest      jsonb NOT NULL,
    location      text NOT NULL,                         -- folder of the installed package, on one machine
    image         text,                                  -- REF@sha256:..., which a cluster runs
    trusted       boolean NOT NULL DEFAULT false,        -- shipped with the platform
    enabled       boolean NOT NULL DEFAULT true,
    installed_at  timestamptz NOT NULL DEFAULT now(),
    installed_by  text NOT NULL,
    UNIQUE (name, version)
);

CREATE TABLE run (
    identity         text PRIMARY KEY,                   -- SHA-256, hexadecimal, over what follows
    project          text NOT NULL REFERENCES project,
    algorithm        text NOT NULL REFERENCES algorithm (digest),
    publish_version  text NOT NULL,
    inputs           jsonb NOT NULL,                     -- [{series_instance_uid, revision, content_digest}]
    parameters       jsonb NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX run_inputs ON run USING gin (inputs jsonb_path_ops);

CREATE TABLE execution (
    id            text PRIMARY KEY,                      -- first 20 hexadecimal digits of the identity, "-", number
    run           text NOT NULL REFERENCES run,
    number        integer NOT NULL,
    state         text NOT NULL DEFAULT 'requested'
                  CHECK (state IN ('requested', 'submitted', 'running', 'succeeded', 'failed', 'cancelled')),
    requested_by  text NOT NULL,
    rule          text,                                  -- name of the rule that asked for it
    depth         integer NOT NULL DEFAULT 1,            -- position in a chain of runs
    purpose       text NOT NULL DEFAULT 'inference' CHECK (purpose IN ('inference', 'training')),  -- of its algorithm
    requested_at  timestamptz NOT NULL DEFAULT now(),
    admitted_at   timestamptz,
    turn          double precision,                      -- of its admission, see insitu.runs.admission_plan
    expected      double precision,                      -- seconds it was expected to hold its place then
    finished_at   timestamptz,
    heartbeat_at  timestamptz,
    failure       text,                                  -- kind of failure, see insitu.runs.outcomes
    reason        text,                                  -- one sentence for a person
    cancel_asked  boolean NOT NULL DEFAULT false,
    UNIQUE (run, number)
);
CREATE INDEX execution_active ON execution (state, requested_at) WHERE state IN ('requested', 'submitted', 'running');
CREATE INDEX execution_waiting ON execution (purpose, requested_at) WHERE state = 'requested';
CREATE INDEX execution_finished ON execution (finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE execution_event (                           -- history; stage names are those of the waterfall
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    execution  text NOT NULL REFERENCES execution,
    stage      text NOT NULL,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    detail     jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX execution_event_of ON execution_event (execution, id);

CREATE TABLE execution_token (                           -- valid for one execution and one step
    token_hash  bytea PRIMARY KEY,
    execution   text NOT NULL REFERENCES execution,
    step        text NOT NULL CHECK (step IN ('fetch', 'publish')),
    expires_at  timestamptz NOT NULL
);

CREATE TABLE execution_result (
    execution            text NOT NULL REFERENCES execution,
    sop_instance_uid     text NOT NULL,
    series_instance_uid  text NOT NULL,
    kind                 text NOT NULL CHECK (kind IN ('SEG', 'SR', 'PDF', 'other')),
    summary              jsonb NOT NULL DEFAULT '{}',    -- segments and measurements, without patient data
    PRIMARY KEY (execution, sop_instance_uid)
);

CREATE TABLE execution_log (
    execution  text NOT NULL REFERENCES execution,
    step       text NOT NULL,
    text       text NOT NULL,
    PRIMARY KEY (execution, step)
);

CREATE UNLOGGED TABLE sign_of_life (                     -- of the platform's processes; lost with a crash, and soon there again
    process  text NOT NULL,
    host     text NOT NULL,
    pid      integer NOT NULL,
    ticks    bigint NOT NULL,                            -- its start since the boot: tells it from a later one of that number
    at       timestamptz NOT NULL,
    facts    jsonb NOT NULL,
    PRIMARY KEY (process, host, pid)
);
