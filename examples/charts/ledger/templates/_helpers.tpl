{{- define "ledger.labels" -}}
{{ include "ledger.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "ledger.selector" -}}
app.kubernetes.io/name: ledger
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* What a client of the ledger needs: the user, and the password as a file. */}}
{{- define "ledger.client" -}}
env:
  - { name: LEDGER_USER, value: {{ .Values.user | quote }} }
volumeMounts:
  - { name: secret, mountPath: /secret, readOnly: true }
{{- end }}
