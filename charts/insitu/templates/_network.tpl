{{/*
Who opens connections to whom inside the release: from, to, port. The policies are made of this table and docs/kubernetes.md shows it; a test
computes the table back from the rendered policies.
*/}}
{{- define "insitu.arrows" -}}
{{- $database := list "receiver" "api" "gateway" "dispatcher" "airflow-api" "airflow-scheduler" "airflow-dag-processor" "preparation" "airflow-migration" -}}
{{- $store := list "receiver" "api" "gateway" "dispatcher" "preparation" -}}
{{- if .Values.database.bundled.enabled }}
{{- range $database }}
- {from: {{ . }}, to: database, ports: [5432]}
{{- end }}
{{- end }}
{{- if .Values.objectStore.bundled.enabled }}
{{- range $store }}
- {from: {{ . }}, to: object-store, ports: [7070]}
{{- end }}
{{- end }}
{{- range list "api" "dispatcher" "airflow-scheduler" }}
- {from: {{ . }}, to: airflow-api, ports: [8793]}
{{- end }}
- {from: airflow-scheduler, to: api, ports: [8080]}
- {from: algorithm, to: gateway, ports: [8090]}
{{- if .Values.tests.enabled }}
- {from: test, to: api, ports: [8080]}
- {from: test, to: gateway, ports: [8090]}
- {from: test, to: receiver, ports: [11112]}
{{- end }}
{{- end -}}

{{/* Who opens connections to the outside: component to kinds of places */}}
{{- define "insitu.outside" -}}
receiver: [dns, database, objectStore, nodes]
api: [dns, database, objectStore, nodes]
gateway: [dns, database, objectStore]
dispatcher: [dns, database, objectStore, nodes, apiServer]
airflow-api: [dns, database]
airflow-scheduler: [dns, database, apiServer]
airflow-dag-processor: [dns, database]
preparation: [dns, database, objectStore]
airflow-migration: [dns, database]
{{- if .Values.tests.enabled }}
test: [dns]
{{- end }}
{{- end -}}

{{/* The pods of a component, as a peer; algorithm pods live in their own namespace: both selectors in one item, so both must fit */}}
{{- define "insitu.peer.component" -}}
{{- if eq .component "algorithm" -}}
- namespaceSelector:
    matchLabels: {kubernetes.io/metadata.name: {{ include "insitu.algorithms.namespace" .root }}}
  podSelector:
    matchLabels:
      {{- include "insitu.selector" . | nindent 6 }}
{{- else -}}
- namespaceSelector:
    matchLabels: {kubernetes.io/metadata.name: {{ .root.Release.Namespace }}}
  podSelector:
    matchLabels:
      {{- include "insitu.selector" . | nindent 6 }}
{{- end -}}
{{- end -}}

{{/* A peer of a site's values: networks, or pods by both labels */}}
{{- define "insitu.peer.site" -}}
{{- if .cidr -}}
- ipBlock:
    cidr: {{ .cidr }}
    {{- with .except }}
    except:
      {{- toYaml . | nindent 6 }}
    {{- end }}
{{- else -}}
- namespaceSelector:
    matchLabels:
      {{- toYaml .namespaceLabels | nindent 6 }}
  podSelector:
    matchLabels:
      {{- toYaml .podLabels | nindent 6 }}
{{- end -}}
{{- end -}}

{{/* Addresses of the API server */}}
{{- define "insitu.apiServer.cidrs" -}}
{{- $cidrs := .Values.networkPolicy.apiServer.cidrs -}}
{{- if not $cidrs -}}
{{- range (lookup "discovery.k8s.io/v1" "EndpointSlice" "default" "").items | default list -}}
{{- if eq (get (.metadata.labels | default dict) "kubernetes.io/service-name") "kubernetes" -}}
{{- $ipv6 := eq .addressType "IPv6" -}}
{{- range .endpoints -}}
{{- range .addresses -}}
{{- $cidrs = append $cidrs (printf "%s/%s" . (ternary "128" "32" $ipv6)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if not $cidrs -}}
{{- fail "networkPolicy.apiServer.cidrs: the address of Kubernetes' API server could not be looked up; name it, as `kubectl get endpointslices -n default` shows it" -}}
{{- end -}}
{{- toYaml $cidrs -}}
{{- end -}}

{{- define "insitu.outside.dns" -}}
- to:
    {{- include "insitu.peer.site" (dict "namespaceLabels" (dict "kubernetes.io/metadata.name" .Values.networkPolicy.dns.namespace) "podLabels" .Values.networkPolicy.dns.podLabels) | nindent 4 }}
    {{- range .Values.networkPolicy.dns.cidrs }}
    - ipBlock: {cidr: {{ . }}}
    {{- end }}
  ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- end -}}

{{- define "insitu.outside.database" -}}
{{- if not .Values.database.bundled.enabled }}
- to:
    {{- range required "database.external.cidrs: name the networks of the PostgreSQL server, for the NetworkPolicy" .Values.database.external.cidrs }}
    - ipBlock: {cidr: {{ . }}}
    {{- end }}
  ports:
    - {protocol: TCP, port: {{ .Values.database.external.port }}}
{{- end }}
{{- end -}}

{{- define "insitu.outside.objectStore" -}}
{{- if not .Values.objectStore.bundled.enabled }}
{{- $url := urlParse (include "insitu.objectStore.url" .) }}
{{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (ternary "443" "80" (eq $url.scheme "https")) }}
- to:
    {{- range required "objectStore.external.cidrs: name the networks of the S3 server, for the NetworkPolicy" .Values.objectStore.external.cidrs }}
    - ipBlock: {cidr: {{ . }}}
    {{- end }}
  ports:
    - {protocol: TCP, port: {{ $port }}}
{{- end }}
{{- end -}}

{{- define "insitu.outside.nodes" -}}
{{- if .Values.networkPolicy.nodes }}
- to:
    {{- range .Values.networkPolicy.nodes }}
    {{- include "insitu.peer.site" . | nindent 4 }}
    {{- end }}
  {{- with .Values.networkPolicy.nodePorts }}
  ports:
    {{- range . }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "insitu.outside.apiServer" -}}
- to:
    {{- range (include "insitu.apiServer.cidrs" . | fromYamlArray) }}
    - ipBlock: {cidr: {{ . }}}
    {{- end }}
  ports:
    {{- range .Values.networkPolicy.apiServer.ports }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end -}}
