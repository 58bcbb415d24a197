//! The settings of audit log, encryption and admission.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kube_api_server::encryption::EncryptionConfig;
use kube_api_server::{AdmissionConfiguration, Audit, AuditLogOptions};
use serde::Deserialize;

const MIB: u64 = 1 << 20;
/// Default size of an audit log in MiB.
const LOG_MIB: u64 = 100;
const LOG_BACKUPS: usize = 10;

/// The settings as flags, with the names of kube-apiserver, and in the configuration file.
#[derive(clap::Args, Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ProtectionSettings {
    /// Audit policy (audit.k8s.io/v1); needs --audit-log-path
    #[arg(long, value_name = "FILE", env = "MAINSTAY_AUDIT_POLICY_FILE")]
    audit_policy_file: Option<PathBuf>,
    /// Audit log file, with one line of JSON for each entry
    #[arg(long, value_name = "FILE", env = "MAINSTAY_AUDIT_LOG_PATH")]
    audit_log_path: Option<PathBuf>,
    /// Size in MiB at which the audit log is rotated [default: 100]
    #[arg(long, value_name = "MIB")]
    audit_log_maxsize: Option<u64>,
    /// Number of rotated audit logs to keep [default: 10]
    #[arg(long, value_name = "NUMBER")]
    audit_log_maxbackup: Option<usize>,
    /// Encryption of stored objects (EncryptionConfiguration, apiserver.config.k8s.io/v1)
    #[arg(long, value_name = "FILE", env = "MAINSTAY_ENCRYPTION_PROVIDER_CONFIG")]
    encryption_provider_config: Option<PathBuf>,
    /// Settings of admission plug-ins (AdmissionConfiguration, apiserver.config.k8s.io/v1)
    #[arg(
        long,
        value_name = "FILE",
        env = "MAINSTAY_ADMISSION_CONTROL_CONFIG_FILE"
    )]
    admission_control_config_file: Option<PathBuf>,
}

/// The contents of the files of these settings.
#[derive(Debug, Default)]
pub struct Protection {
    pub audit: Option<Audit>,
    pub encryption: Option<EncryptionConfig>,
    pub admission: AdmissionConfiguration,
}

impl ProtectionSettings {
    /// Uses the values of the configuration file for settings without flag or variable.
    pub fn or(self, file: Self) -> Self {
        Self {
            audit_policy_file: self.audit_policy_file.or(file.audit_policy_file),
            audit_log_path: self.audit_log_path.or(file.audit_log_path),
            audit_log_maxsize: self.audit_log_maxsize.or(file.audit_log_maxsize),
            audit_log_maxbackup: self.audit_log_maxbackup.or(file.audit_log_maxbackup),
            encryption_provider_config: self
                .encryption_provider_config
                .or(file.encryption_provider_config),
            admission_control_config_file: self
                .admission_control_config_file
                .or(file.admission_control_config_file),
        }
    }

    /// The paths of the files of these settings.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let files = [
            &self.audit_policy_file,
            &self.encryption_provider_config,
            &self.admission_control_config_file,
        ];
        files.into_iter().flatten().map(PathBuf::as_path)
    }

    /// Reads the files at the start of the server.
    pub fn read(&self) -> Result<Protection> {
        let audit = match (&self.audit_policy_file, &self.audit_log_path) {
            (None, None) => None,
            (Some(policy), Some(path)) => Some(self.open_audit(policy, path)?),
            (Some(_), None) => bail!("--audit-policy-file needs --audit-log-path"),
            (None, Some(_)) => bail!("--audit-log-path needs --audit-policy-file"),
        };
        let encryption = match &self.encryption_provider_config {
            None => None,
            Some(path) => {
                let config = EncryptionConfig::parse(&text(path)?);
                Some(config.with_context(|| format!("use {}", path.display()))?)
            }
        };
        let admission = match &self.admission_control_config_file {
            None => AdmissionConfiguration::default(),
            Some(path) => read_admission(path)?,
        };
        Ok(Protection {
            audit,
            encryption,
            admission,
        })
    }

    fn open_audit(&self, policy: &Path, log: &Path) -> Result<Audit> {
        let mib = self.audit_log_maxsize.unwrap_or(LOG_MIB);
        if mib == 0 {
            bail!("--audit-log-maxsize must be at least 1");
        }
        let options = AuditLogOptions {
            path: std::path::absolute(log).with_context(|| format!("use {}", log.display()))?,
            bytes_max: mib.saturating_mul(MIB),
            backups_max: self.audit_log_maxbackup.unwrap_or(LOG_BACKUPS),
        };
        let audit = Audit::open(&text(policy)?, options);
        audit.with_context(|| format!("use {}", policy.display()))
    }
}

/// The path of a plug-in's file is relative to the directory of the configuration.
fn read_admission(path: &Path) -> Result<AdmissionConfiguration> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let read_file = |name: &str| fs::read_to_string(folder.join(name));
    let configuration = AdmissionConfiguration::parse(&text(path)?, read_file);
    configuration.with_context(|| format!("use {}", path.display()))
}

fn text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_and_a_log_belong_together() {
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("policy.yaml");
        let head = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n";
        fs::write(&policy, head).unwrap();
        let alone = ProtectionSettings {
            audit_policy_file: Some(policy.clone()),
            ..ProtectionSettings::default()
        };
        let error = alone.read().unwrap_err().to_string();
        assert_eq!(error, "--audit-policy-file needs --audit-log-path");
        let both = alone.or(ProtectionSettings {
            audit_log_path: Some(folder.path().join("log")),
            ..ProtectionSettings::default()
        });
        assert!(both.read().unwrap().audit.is_some());
        fs::write(&policy, format!("{head}  user: [a]\n")).unwrap();
        let error = format!("{:#}", both.read().unwrap_err());
        let refused = "policy.yaml: the audit policy does not parse: line 5, column ";
        assert!(error.contains(refused) && error.contains("user"), "{error}");
        assert!(
            !error.contains("<input>") && !error.contains('\n'),
            "{error}"
        );
    }

    // findings-2 S46
    #[test]
    fn the_file_of_a_plug_in_is_beside_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admission.yaml");
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: ";
        let plugin = "AdmissionConfiguration\nplugins: [{name: ResourceQuota, path: quota.yaml}]\n";
        fs::write(&path, format!("{head}{plugin}")).unwrap();
        let settings = ProtectionSettings::default().or(ProtectionSettings {
            admission_control_config_file: Some(path.clone()),
            ..ProtectionSettings::default()
        });
        assert_eq!(settings.files().collect::<Vec<_>>(), [path.as_path()]);
        let error = format!("{:#}", settings.read().unwrap_err());
        let expected = "admission.yaml: read quota.yaml, which plugins[0].path names: No such file";
        assert!(error.contains(expected), "{error}");
        let quota = "ResourceQuotaConfiguration\nlimitedResources: [{resource: pods}]\n";
        fs::write(folder.path().join("quota.yaml"), format!("{head}{quota}")).unwrap();
        let read = settings.read().unwrap();
        assert_eq!(read.admission.limited_resources.len(), 1);
    }

    #[test]
    fn a_senseless_encryption_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("encryption.yaml");
        let settings = ProtectionSettings {
            encryption_provider_config: Some(path.clone()),
            ..ProtectionSettings::default()
        };
        let refusal = |text: &str| {
            fs::write(&path, text).unwrap();
            format!("{:#}", settings.read().unwrap_err())
        };
        let head = "apiVersion: v1\nkind: EncryptionConfiguration\n";
        let error = refusal(head);
        assert!(
            error.contains("must be apiserver.config.k8s.io/v1"),
            "{error}"
        );
        let error = refusal(&format!("{head}keys: []\n"));
        let position =
            "encryption.yaml: the encryption configuration does not parse: line 3, column ";
        assert!(
            error.contains(position) && !error.contains("<input>"),
            "{error}"
        );
    }
}
