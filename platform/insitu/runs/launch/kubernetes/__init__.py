"""The launcher of a cluster: a job is one Kubernetes Job, whose pod runs fetch, the algorithm and publish one after another.

    configuration   what a site says about it, one YAML file
    api             the few requests to the API server; watching: following objects through it
    manifest        the Job and the Secret of a specification
    outcome         what the API's facts about a job mean
    launcher        the Launcher made of these

Standard library, pydantic and PyYAML only, because the workflow engine's tasks import it.
"""
