{{/* The settings as insitu.yaml: those of the site, then those that the chart decides. No secret stands in them. */}}

{{- define "insitu.database.host" -}}
{{- if .Values.database.bundled.enabled -}}
{{- printf "%s-database" (include "insitu.fullname" .) -}}
{{- else -}}
{{- required "database.external.host: name the PostgreSQL server of the site, or set database.bundled.enabled" .Values.database.external.host -}}
{{- end -}}
{{- end -}}

{{- define "insitu.objectStore.url" -}}
{{- if .Values.objectStore.bundled.enabled -}}
{{- printf "http://%s-object-store:7070/%s" (include "insitu.fullname" .) .Values.objectStore.bundled.bucket -}}
{{- else -}}
{{- required "objectStore.external.url: name the bucket of the site as http(s)://HOST[:PORT]/BUCKET, or set objectStore.bundled.enabled" .Values.objectStore.external.url -}}
{{- end -}}
{{- end -}}

{{- define "insitu.authorities.file" -}}
{{- if .Values.certificateAuthorities.configMap -}}/etc/insitu/authorities/ca.crt{{- end -}}
{{- end -}}

{{- define "insitu.configuration" -}}
{{- $name := include "insitu.fullname" . -}}
{{- $chosen := dict
  "http" "0.0.0.0:8080"
  "dicom" "0.0.0.0:11112"
  "drain_seconds" .Values.receiver.drainSeconds
  "database_host" (include "insitu.database.host" .)
  "object_store" (include "insitu.objectStore.url" .)
  "object_store_region" .Values.objectStore.region
  "airflow_url" (printf "http://%s-airflow-api:8793" $name)
  "gateway_url" "http://gateway.insitu.internal:8090"
  "launcher" "kubernetes"
  "algorithm_images" .Values.algorithms.images
-}}
{{- if .Values.database.bundled.enabled -}}
{{- $chosen = merge $chosen (dict "database_port" 5432 "database_name" "insitu" "database_sslmode" "disable") -}}
{{- else -}}
{{- $external := .Values.database.external -}}
{{- $chosen = merge $chosen (dict "database_port" $external.port "database_name" $external.name "database_sslmode" $external.sslmode) -}}
{{- end -}}
{{- with include "insitu.authorities.file" . -}}
{{- $chosen = merge $chosen (dict "database_ca" . "object_store_ca" . "tls_ca" .) -}}
{{- end -}}
{{- if .Values.receiver.tls.enabled -}}
{{- $chosen = merge $chosen (dict
  "dicom_tls" "0.0.0.0:2762"
  "tls_certificate" "/etc/insitu/tls/tls.crt"
  "tls_key" "/etc/insitu/tls/tls.key"
  "tls_client_certificates" .Values.receiver.tls.clientCertificates
) -}}
{{- if .Values.receiver.tls.clientAuthoritiesSecret -}}
{{- $chosen = merge $chosen (dict "tls_client_ca" "/etc/insitu/client-authorities/ca.crt") -}}
{{- end -}}
{{- end -}}
{{- if not (include "insitu.priorityClass.trainings" .) -}}
{{- if .Values.settings.trainings_at_once -}}
{{- fail "settings.trainings_at_once: trainings would keep clinical runs waiting without priorityClass.trainings; make that class or name one" -}}
{{- end -}}
{{- $chosen = merge $chosen (dict "trainings_at_once" 0) -}}
{{- end -}}
{{- range $key, $value := .Values.settings -}}
{{- if and (hasKey $chosen $key) (ne $key "trainings_at_once") -}}
{{- fail (printf "settings.%s: this setting is the chart's; docs/helm-values.md names the value that decides it" $key) -}}
{{- end -}}
{{- end -}}
{{- merge $chosen .Values.settings | toYaml -}}
{{- end -}}

{{/* The launcher's configuration, for those who talk to Kubernetes: the scheduler, and the dispatcher for its reconciler. */}}
{{- define "insitu.launcher" -}}
{{- $chosen := dict
  "namespace" (include "insitu.algorithms.namespace" .)
  "step_image" (include "insitu.image" (dict "root" . "image" .Values.images.platform))
  "gateway_service" (dict "namespace" .Release.Namespace "name" (printf "%s-gateway" (include "insitu.fullname" .)))
  "labels" (include "insitu.selector" (dict "root" . "component" "algorithm") | fromYaml)
-}}
{{- with include "insitu.priorityClass.trainings" . -}}
{{- $chosen = merge $chosen (dict "training_priority_class" .) -}}
{{- end -}}
{{- $chosen = merge $chosen .Values.algorithms.launcher -}}
{{- if not (hasKey $chosen "image_pull_policy") -}}
{{- $chosen = merge $chosen (dict "image_pull_policy" .Values.images.pullPolicy) -}}
{{- end -}}
{{- toYaml $chosen -}}
{{- end -}}
