{{/* What is so of each process, whatever the values say: its service, its command, and what it needs. */}}
{{- define "pixorly.facts" -}}
api: {service: api, command: pixorly-api, http: true, storage: true, ledger: true, generator: true, internet: true, database: true}
api-worker: {service: api, command: pixorly-api-worker, ledger: true, database: true, queue: api.follow_job}
generator: {service: generator, command: pixorly-generator, http: true, storage: true, internet: true, database: true, queue: generator.generate_image}
uploader: {service: uploader, command: pixorly-uploader, storage: true, ledger: true, queue: uploader.store_image}
ledger: {service: ledger, command: pixorly-ledger, http: true, database: true}
{{- end }}

{{- define "pixorly.fullname" -}}
{{- if contains "pixorly" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-pixorly" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "pixorly.image" -}}
{{- $image := .root.Values.image -}}
{{ with $image.registry }}{{ . }}/{{ end }}{{ $image.prefix }}{{ .part }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "pixorly.selector" -}}
app.kubernetes.io/name: pixorly
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{- define "pixorly.labels" -}}
{{ include "pixorly.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: pixorly
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "pixorly.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "pixorly.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* What a process is told that is nobody's secret; what the values say goes before what follows from them. */}}
{{- define "pixorly.settings" -}}
{{- $told := dict "PIXORLY_HTTP_HOST" "0.0.0.0" "PIXORLY_HTTP_PORT" "8080" }}
{{- $full := include "pixorly.fullname" .root }}
{{- if .facts.ledger }}{{ $_ := set $told "PIXORLY_LEDGER_URL" (printf "http://%s-ledger:8080" $full) }}{{ end }}
{{- if .facts.generator }}{{ $_ := set $told "PIXORLY_GENERATOR_URL" (printf "http://%s-generator:8080" $full) }}{{ end }}
{{- if .facts.storage }}
{{- $storage := .root.Values.storage }}
{{- $_ := set $told "AWS_REGION" $storage.region }}
{{- $_ := set $told "AWS_S3_BUCKET" $storage.bucket }}
{{- $_ := set $told "PIXORLY_S3_SSE" $storage.sse }}
{{- with $storage.endpointUrl }}{{ $_ := set $told "PIXORLY_S3_ENDPOINT_URL" . }}{{ end }}
{{- with $storage.kmsKeyId }}{{ $_ := set $told "PIXORLY_S3_KMS_KEY_ID" . }}{{ end }}
{{- end }}
{{- if and .facts.storage (eq .facts.service "api") }}
{{- with .root.Values.cloudfront.domain }}{{ $_ := set $told "AWS_CLOUDFRONT_DOMAIN" . }}{{ end }}
{{- with .root.Values.cloudfront.keyPairId }}{{ $_ := set $told "AWS_CLOUDFRONT_KEY_PAIR_ID" . }}{{ end }}
{{- end }}
{{- if eq .facts.service "uploader" }}
{{- with .root.Values.cloudfront.distributionId }}{{ $_ := set $told "AWS_CLOUDFRONT_DISTRIBUTION_ID" . }}{{ end }}
{{- end }}
{{- if and .root.Values.modelsFile (has .facts.service (list "api" "generator")) }}
{{- $_ := set $told "PIXORLY_MODELS_FILE" "/etc/pixorly/models.toml" }}
{{- end }}
{{- range $name, $value := mergeOverwrite $told .root.Values.settings .process.settings }}
- name: {{ $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- end }}
