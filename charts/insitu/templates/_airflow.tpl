{{/*
Airflow's pods. An init container of the platform image writes Airflow's whole configuration, from the same source as on one machine, into
a folder in memory; so only that container sees the secrets it is made of.
*/}}

{{- define "insitu.airflow.environment" -}}
- {name: AIRFLOW_HOME, value: /var/lib/airflow}
- {name: HOME, value: /var/lib/airflow}
- {name: PYTHONUNBUFFERED, value: "1"}
- {name: PYTHONDONTWRITEBYTECODE, value: "1"}
- {name: MALLOC_ARENA_MAX, value: "2"}
- {name: NO_PROXY, value: "*"}
{{- end -}}

{{/* {root, component} */}}
{{- define "insitu.airflow.configure" -}}
- name: configure
  {{- include "insitu.container.platform" .root | nindent 2 }}
  command: [python, -m, insitu_services.airflow_configuration, /var/lib/airflow]
  env:
    {{- include "insitu.environment" .root | nindent 4 }}
  resources:
    {{- toYaml .root.Values.preparation.resources | nindent 4 }}
  volumeMounts:
    {{- include "insitu.mounts" .root | nindent 4 }}
    - {name: airflow, mountPath: /var/lib/airflow}
{{- end -}}

{{- define "insitu.airflow.waiting" -}}
- name: wait-for-migration
  {{- include "insitu.container.airflow" . | nindent 2 }}
  command:
    - python
    - -c
    - |
      {{- .Files.Get "files/airflow_database.py" | nindent 6 }}
    - wait
    - --schema
    - db
    - check-migrations
    - --migration-wait-timeout
    - {{ .Values.preparation.patienceSeconds | quote }}
  env:
    {{- include "insitu.airflow.environment" . | nindent 4 }}
  resources:
    requests: {cpu: 50m, memory: 192Mi}
    limits: {memory: 1Gi}
  volumeMounts:
    {{- include "insitu.airflow.mounts" . | nindent 4 }}
{{- end -}}

{{- define "insitu.airflow.mounts" -}}
- {name: airflow, mountPath: /var/lib/airflow}
- {name: logs, mountPath: /var/lib/airflow/logs}
- {name: temporary, mountPath: /tmp}
{{- if .Values.certificateAuthorities.configMap }}
- {name: authorities, mountPath: /etc/insitu/authorities, readOnly: true}
{{- end }}
{{- end -}}

{{- define "insitu.airflow.volumes" -}}
- name: airflow
  emptyDir: {medium: Memory, sizeLimit: 64Mi}
- name: logs
  emptyDir: {sizeLimit: 2Gi}
{{ include "insitu.volumes" . }}
{{- end -}}

{{/* A Deployment of one of Airflow's processes: {root, component, settings, command, body, account, token} */}}
{{- define "insitu.airflow.deployment" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "insitu.metadata" (dict "root" .root "component" .component "name" (printf "%s-%s" (include "insitu.fullname" .root) .component)) | nindent 2 }}
spec:
  replicas: 1
  # The preparation may take as long; only then has something gone wrong.
  progressDeadlineSeconds: {{ add .root.Values.preparation.patienceSeconds 600 }}
  strategy:
    {{- if .surge }}
    type: RollingUpdate
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
    {{- else }}
    type: Recreate
    {{- end }}
  selector:
    matchLabels:
      {{- include "insitu.selector" . | nindent 6 }}
  template:
    metadata:
      {{- include "insitu.pod.metadata" . | nindent 6 }}
    spec:
      {{- include "insitu.pod.spec" (merge (dict "scheduling" .settings.scheduling) .) | nindent 6 }}
      terminationGracePeriodSeconds: 30
      initContainers:
        {{- include "insitu.airflow.configure" . | nindent 8 }}
        {{- include "insitu.airflow.waiting" .root | nindent 8 }}
      containers:
        - name: {{ .component | trimPrefix "airflow-" }}
          {{- include "insitu.container.airflow" .root | nindent 10 }}
          command: {{ concat (list "python" "-m" "airflow") .command | toJson }}
          env:
            {{- include "insitu.airflow.environment" .root | nindent 12 }}
            {{- with .environment }}
            {{- . | trim | nindent 12 }}
            {{- end }}
          {{- .probes | trim | nindent 10 }}
          resources:
            {{- toYaml .settings.resources | nindent 12 }}
          volumeMounts:
            {{- include "insitu.airflow.mounts" .root | nindent 12 }}
            {{- with .mounts }}
            {{- . | trim | nindent 12 }}
            {{- end }}
      volumes:
        {{- include "insitu.airflow.volumes" . | nindent 8 }}
{{- end -}}
