{{/* Names, labels and images that more than one template needs. */}}

{{- define "inferbench.name" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride }}
{{- else if contains .Chart.Name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "inferbench.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "inferbench.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: inferbench
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "inferbench.selector" . }}
{{- end }}

{{- define "inferbench.serviceAccount" -}}
{{- if .Values.serviceAccount.name }}
{{- .Values.serviceAccount.name }}
{{- else if .Values.serviceAccount.create }}
{{- include "inferbench.name" . }}
{{- else -}}
default
{{- end }}
{{- end }}

{{/* An image: (list $ .Values.image). */}}
{{- define "inferbench.image" -}}
{{- $root := index . 0 }}
{{- $image := index . 1 }}
{{- if $image.digest }}
{{- printf "%s@%s" $image.repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $image.repository ($image.tag | default $root.Chart.AppVersion) }}
{{- end }}
{{- end }}

{{/* What the operator may do to benchmarks, their Jobs and pods: what controller/apply.rs and run.rs call, no more. */}}
{{- define "inferbench.rules" -}}
- apiGroups: [inferbench.dev]
  resources: [inferencebenchmarks]
  verbs: [get, list, watch]
- apiGroups: [inferbench.dev]
  resources: [inferencebenchmarks/status]
  verbs: [patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
