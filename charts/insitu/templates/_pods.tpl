{{/* What every pod of the release has in common. All of it keeps to the Pod Security level "restricted". */}}

{{/* metadata of a pod template: {root, component, settings} */}}
{{- define "insitu.pod.metadata" -}}
labels:
  {{- include "insitu.labels" . | nindent 2 }}
  {{- with .root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  checksum/configuration: {{ include "insitu.configuration" .root | sha256sum }}
  {{- with .root.Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Fields of a pod spec: {root, component, scheduling, replicas, token}; accountOfAll: the account that every namespace has */}}
{{- define "insitu.pod.spec" -}}
serviceAccountName: {{ if .accountOfAll }}default{{ else }}{{ include "insitu.fullname" .root }}-{{ .account | default .component }}{{ end }}
automountServiceAccountToken: {{ .token | default false }}
enableServiceLinks: false
{{- with .root.Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- $priority := .scheduling.priorityClassName | default (ternary (include "insitu.priorityClass" .root) "" .root.Values.priorityClass.create) | default .root.Values.priorityClass.name }}
{{- with $priority }}
priorityClassName: {{ . }}
{{- end }}
{{- with .scheduling.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .scheduling.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .scheduling.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .scheduling.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml .scheduling.topologySpreadConstraints | nindent 2 }}
{{- else if gt (int (.replicas | default 1)) 1 }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "insitu.selector" . | nindent 8 }}
{{- end }}
{{- end -}}

{{/* That of trainings; empty where there is none. */}}
{{- define "insitu.priorityClass.trainings" -}}
{{- $class := .Values.priorityClass.trainings -}}
{{- $class.name | default (ternary (printf "%s-%s-trainings" .Release.Namespace (include "insitu.fullname" .)) "" $class.create) -}}
{{- end -}}

{{- define "insitu.priorityClass" -}}
{{- .Values.priorityClass.name | default (printf "%s-%s" .Release.Namespace (include "insitu.fullname" .)) -}}
{{- end -}}

{{- define "insitu.container.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Image lines of a container of the platform image, with its security context */}}
{{- define "insitu.container.platform" -}}
image: {{ include "insitu.image" (dict "root" . "image" .Values.images.platform) }}
imagePullPolicy: {{ .Values.images.pullPolicy }}
securityContext:
  {{- include "insitu.container.security" . | nindent 2 }}
{{- end -}}

{{- define "insitu.container.airflow" -}}
image: {{ include "insitu.image" (dict "root" . "image" .Values.images.airflow) }}
imagePullPolicy: {{ .Values.images.pullPolicy }}
securityContext:
  {{- include "insitu.container.security" . | nindent 2 }}
{{- end -}}

{{/* Mounts of a process of ours: its home, the settings, the secrets of its own, certificates */}}
{{- define "insitu.mounts" -}}
- {name: home, mountPath: /var/lib/insitu}
- {name: temporary, mountPath: /tmp}
- {name: configuration, mountPath: /var/lib/insitu/insitu.yaml, subPath: insitu.yaml, readOnly: true}
- {name: secrets, mountPath: /var/lib/insitu/secrets, readOnly: true}
{{- if .Values.certificateAuthorities.configMap }}
- {name: authorities, mountPath: /etc/insitu/authorities, readOnly: true}
{{- end }}
{{- end -}}

{{/* Volumes of such a process: {root, component, homeSize}; which secret files it gets stands in "insitu.secretFiles" */}}
{{- define "insitu.volumes" -}}
- name: home
  emptyDir: {sizeLimit: {{ .homeSize | default "1Gi" }}}
- name: temporary
  emptyDir: {sizeLimit: {{ .temporarySize | default "1Gi" }}}
- name: configuration
  configMap:
    name: {{ include "insitu.fullname" .root }}-configuration
{{ include "insitu.volume.secrets" . }}
{{- include "insitu.volume.authorities" .root }}
{{- end -}}

{{- define "insitu.volume.secrets" -}}
{{- $files := get (include "insitu.secretFiles" .root | fromYaml) .component -}}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      {{- range $kind := list "database" "objectStore" "own" }}
      {{- $found := get $files $kind }}
      {{- if $found }}
      - secret:
          name: {{ if eq $kind "own" }}{{ include "insitu.secrets.name" $.root }}{{ else }}{{ include (printf "insitu.%s.secret" $kind) $.root }}{{ end }}
          items:
            {{- range $found }}
            - {key: {{ . }}, path: {{ . }}}
            {{- end }}
      {{- end }}
      {{- end }}
{{- end -}}

{{- define "insitu.volume.authorities" -}}
{{- if .Values.certificateAuthorities.configMap }}
- name: authorities
  configMap:
    name: {{ .Values.certificateAuthorities.configMap }}
    items:
      - {key: {{ .Values.certificateAuthorities.key }}, path: ca.crt}
{{- end }}
{{- end -}}

{{/*
Which secret files each workload gets, by the Secret they come from. docs/kubernetes.md shows the same table.
The superuser's password exists for the bundled database only: a site's server is prepared by the site.
*/}}
{{- define "insitu.secretFiles" -}}
{{- $superuser := .Values.database.bundled.enabled }}
receiver: {database: [database-receiver], objectStore: [object-store-access-key, object-store-secret-key]}
api: {database: [database-api], objectStore: [object-store-access-key, object-store-secret-key], own: [engine-token, step-key]}
gateway: {database: [database-api], objectStore: [object-store-access-key, object-store-secret-key], own: [step-key]}
dispatcher: {database: [database-dispatcher], objectStore: [object-store-access-key, object-store-secret-key], own: [airflow-password, step-key]}
database: {own: [database-superuser]}
preparation:
  database: [database-owner, database-airflow, database-api, database-receiver, database-dispatcher, database-cli]
  objectStore: [object-store-access-key, object-store-secret-key]
  own: [{{ if $superuser }}database-superuser, {{ end }}admin-password]
airflow-api: {database: [database-airflow], own: [airflow-password, airflow-jwt, airflow-api-key, airflow-fernet]}
airflow-scheduler: {database: [database-airflow], own: [airflow-jwt, airflow-fernet, engine-token]}
airflow-dag-processor: {database: [database-airflow], own: [airflow-jwt, airflow-fernet]}
airflow-migration: {database: [database-airflow], own: [airflow-fernet]}
{{- end -}}

{{/* A PodDisruptionBudget: {root, component, budget} */}}
{{- define "insitu.disruptionBudget" -}}
{{- if .budget.enabled }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "insitu.metadata" (merge (dict "name" (printf "%s-%s" (include "insitu.fullname" .root) .component)) .) | nindent 2 }}
spec:
  maxUnavailable: {{ .budget.maxUnavailable }}
  selector:
    matchLabels:
      {{- include "insitu.selector" . | nindent 6 }}
{{- end }}
{{- end -}}

{{/* Environment of a process of ours; the settings stand in insitu.yaml, the secrets in files. */}}
{{- define "insitu.environment" -}}
- {name: INSITU_HOME, value: /var/lib/insitu}
- {name: PYTHONUNBUFFERED, value: "1"}
- {name: PYTHONDONTWRITEBYTECODE, value: "1"}
- {name: MALLOC_ARENA_MAX, value: "2"}
{{- end -}}

{{/* The init container that ends when the schema is what this version needs: {root, role}; it sees the password of that role alone */}}
{{- define "insitu.waiting" -}}
- name: wait-for-preparation
  {{- include "insitu.container.platform" .root | nindent 2 }}
  command: [python, -m, insitu_services.prepare, --wait, {{ .root.Values.preparation.patienceSeconds | quote }}]
  env:
    {{- include "insitu.environment" .root | nindent 4 }}
  resources:
    {{- toYaml .root.Values.preparation.resources | nindent 4 }}
  volumeMounts:
    - {name: home, mountPath: /var/lib/insitu}
    - {name: temporary, mountPath: /tmp}
    - {name: configuration, mountPath: /var/lib/insitu/insitu.yaml, subPath: insitu.yaml, readOnly: true}
    - {name: secrets, mountPath: /var/lib/insitu/secrets/database-{{ .role }}, subPath: database-{{ .role }}, readOnly: true}
    {{- if .root.Values.certificateAuthorities.configMap }}
    - {name: authorities, mountPath: /etc/insitu/authorities, readOnly: true}
    {{- end }}
{{- end -}}

{{- define "insitu.volume.tls" -}}
{{- if .Values.receiver.tls.enabled }}
- name: tls
  secret:
    secretName: {{ include "insitu.dicomTls.secret" . }}
    defaultMode: 0440
{{- with .Values.receiver.tls.clientAuthoritiesSecret }}
- name: client-authorities
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items: [{key: ca.crt, path: ca.crt}]
{{- end }}
{{- end }}
{{- end -}}

{{- define "insitu.mounts.tls" -}}
{{- if .Values.receiver.tls.enabled }}
- {name: tls, mountPath: /etc/insitu/tls, readOnly: true}
{{- if .Values.receiver.tls.clientAuthoritiesSecret }}
- {name: client-authorities, mountPath: /etc/insitu/client-authorities, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}
