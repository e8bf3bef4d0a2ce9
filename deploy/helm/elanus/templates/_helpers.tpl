{{- define "elanus.labels" -}}
app.kubernetes.io/name: elanus
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "elanus.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
