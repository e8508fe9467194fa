{{/* Names and labels. COMPONENT is receiver, api, gateway, dispatcher, airflow-api, ... */}}

{{- define "insitu.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "insitu.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "insitu.labels" -}}
{{ include "insitu.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* metadata of an object of this release: {root, component, name} */}}
{{- define "insitu.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "insitu.labels" . | nindent 2 }}
{{- end -}}

{{- define "insitu.algorithms.namespace" -}}
{{- .Values.algorithms.namespace | default (printf "%s-algorithms" .Release.Namespace) -}}
{{- end -}}

{{- define "insitu.secrets.name" -}}
{{- .Values.secrets.existing | default (printf "%s-secrets" (include "insitu.fullname" .)) -}}
{{- end -}}

{{- define "insitu.database.secret" -}}
{{- if and (not .Values.database.bundled.enabled) .Values.database.external.existingSecret -}}
{{- .Values.database.external.existingSecret -}}
{{- else -}}
{{- include "insitu.secrets.name" . -}}
{{- end -}}
{{- end -}}

{{- define "insitu.objectStore.secret" -}}
{{- if and (not .Values.objectStore.bundled.enabled) .Values.objectStore.external.existingSecret -}}
{{- .Values.objectStore.external.existingSecret -}}
{{- else -}}
{{- include "insitu.secrets.name" . -}}
{{- end -}}
{{- end -}}

{{- define "insitu.webTls.secret" -}}
{{- .Values.ingress.tls.existingSecret | default (printf "%s-web-tls" (include "insitu.fullname" .)) -}}
{{- end -}}

{{- define "insitu.dicomTls.secret" -}}
{{- .Values.receiver.tls.existingSecret | default (printf "%s-dicom-tls" (include "insitu.fullname" .)) -}}
{{- end -}}

{{- define "insitu.admissionPolicy.name" -}}
{{- .Values.admissionPolicy.name | default (printf "%s-%s-algorithms" .Release.Name .Release.Namespace) -}}
{{- end -}}

{{/* An image: {root, image} with repository, tag and digest */}}
{{- define "insitu.image" -}}
{{- $registry := .root.Values.global.imageRegistry | trimSuffix "/" -}}
{{- $name := ternary .image.repository (printf "%s/%s" $registry .image.repository) (empty $registry) -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}
