//! The configuration of admission plug-ins: `apiserver.config.k8s.io/v1` AdmissionConfiguration.

use std::io;

use json_tree::Value;
use object_model::{FieldError, FieldPath};
use resource_kinds::configuration::{items, only, text};
use resource_kinds::quota::limited::LimitedResource;

/// The only plug-in that has a configuration here.
const RESOURCE_QUOTA: &str = "ResourceQuota";

/// The supported `apiVersion` and `kind` of the file, and of the configuration of ResourceQuota.
const FILE: [(&str, &str); 2] = [
    ("apiserver.config.k8s.io/v1", "AdmissionConfiguration"),
    ("apiserver.config.k8s.io/v1alpha1", "AdmissionConfiguration"),
];
const QUOTA: [(&str, &str); 3] = [
    ("apiserver.config.k8s.io/v1", "ResourceQuotaConfiguration"),
    ("resourcequota.admission.k8s.io/v1beta1", "Configuration"),
    ("resourcequota.admission.k8s.io/v1alpha1", "Configuration"),
];

/// The error of a configuration of admission plug-ins.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionConfigurationError {
    /// The text is not YAML.
    #[error("the admission configuration does not parse: {0}")]
    Form(String),
    /// Values that are invalid or not supported, with their paths.
    #[error("the admission configuration is wrong: {0}")]
    Values(String),
    /// The configuration file of a plug-in cannot be read.
    #[error("read {path}, which {field} names")]
    Read {
        path: String,
        /// The path of the field that names the file.
        field: String,
        #[source]
        source: io::Error,
    },
}

/// The settings of admission plug-ins.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdmissionConfiguration {
    /// Resources and scopes that a namespace may use only if a quota covers them.
    pub limited_resources: Vec<LimitedResource>,
}

impl AdmissionConfiguration {
    /// Reads a configuration (YAML); `read` reads the file of a plug-in.
    ///
    /// *Errors.* Unknown fields and plug-ins, invalid values, a file that cannot be read.
    pub fn parse(
        yaml: &str,
        read: impl Fn(&str) -> io::Result<String>,
    ) -> Result<Self, AdmissionConfigurationError> {
        let file = tree(yaml)?;
        let root = FieldPath::default();
        let mut errors = Vec::new();
        only(
            &file,
            &["apiVersion", "kind", "plugins"],
            &root,
            &mut errors,
        );
        check_type(&file, &FILE, &root, &mut errors);
        let mut configuration = Self::default();
        let mut is_configured = false;
        for (index, plugin) in items(&file, "plugins", &root, &mut errors)
            .iter()
            .enumerate()
        {
            let at = root.child("plugins").index(index);
            only(plugin, &["name", "path", "configuration"], &at, &mut errors);
            let name = text(plugin, "name", &at, &mut errors);
            if name != RESOURCE_QUOTA {
                let field = at.child("name");
                errors.push(FieldError::not_supported(&field, name, &[RESOURCE_QUOTA]));
                continue;
            }
            if is_configured {
                errors.push(FieldError::duplicate(&at.child("name"), name));
            }
            is_configured = true;
            let path = text(plugin, "path", &at, &mut errors);
            // As upstream, a configuration inside of the main file has precedence.
            if !plugin["configuration"].is_null() {
                let at = at.child("configuration");
                configuration.take_quota(&plugin["configuration"], &at, &mut errors);
            } else if !path.is_empty() {
                let field = at.child("path").to_string();
                let yaml = read(&path).map_err(|source| AdmissionConfigurationError::Read {
                    path: path.clone(),
                    field,
                    source,
                })?;
                let mut inside = Vec::new();
                configuration.take_quota(&tree(&yaml)?, &root, &mut inside);
                settle(&inside, &format!("{path}: "))?;
            }
        }
        settle(&errors, "")?;
        Ok(configuration)
    }

    fn take_quota(&mut self, value: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) {
        only(
            value,
            &["apiVersion", "kind", "limitedResources"],
            at,
            errors,
        );
        check_type(value, &QUOTA, at, errors);
        let all = items(value, "limitedResources", at, errors);
        let at = at.child("limitedResources");
        self.limited_resources = all
            .iter()
            .enumerate()
            .map(|(index, one)| LimitedResource::read(one, &at.index(index), errors))
            .collect();
    }
}

fn tree(yaml: &str) -> Result<Value, AdmissionConfigurationError> {
    serde_saphyr::from_str(yaml).map_err(|error| {
        AdmissionConfigurationError::Form(object_model::yaml_error::in_text(&error))
    })
}

fn check_type(
    value: &Value,
    supported: &[(&str, &str)],
    at: &FieldPath,
    errors: &mut Vec<FieldError>,
) {
    let type_names = (
        text(value, "apiVersion", at, errors),
        text(value, "kind", at, errors),
    );
    if supported.contains(&(&type_names.0, &type_names.1)) {
        return;
    }
    let Some((version, kind)) = supported.first() else {
        return;
    };
    let why = format!("must be {kind} of {version}");
    errors.push(FieldError::invalid(&at.child("kind"), type_names.1, why));
}

fn settle(errors: &[FieldError], path: &str) -> Result<(), AdmissionConfigurationError> {
    if errors.is_empty() {
        return Ok(());
    }
    let all: Vec<String> = errors
        .iter()
        .map(|error| format!("{path}{error}"))
        .collect();
    Err(AdmissionConfigurationError::Values(all.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\n";
    const QUOTA: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: ResourceQuotaConfiguration\n\
                         limitedResources:\n- resource: pods\n  matchScopes:\n\
                         \x20 - {scopeName: CrossNamespacePodAffinity, operator: Exists}\n";

    fn parse(text: &str, file: &str) -> Result<usize, String> {
        let read = |path: &str| match path {
            "quota.yaml" => Ok(file.to_owned()),
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        };
        let parsed = AdmissionConfiguration::parse(text, read);
        let parsed = parsed.map_err(|error| error.to_string())?;
        Ok(parsed.limited_resources.len())
    }

    // findings-2 S46
    #[test]
    fn a_configuration_is_within_the_file_or_in_one_of_its_own() {
        assert_eq!(parse(HEAD, ""), Ok(0));
        let with_file = format!("{HEAD}plugins:\n- name: ResourceQuota\n  path: quota.yaml\n");
        assert_eq!(parse(&with_file, QUOTA), Ok(1));
        let within = format!(
            "{with_file}  configuration:\n    {}\n",
            QUOTA.trim_end().replace('\n', "\n    ")
        );
        assert_eq!(parse(&within, "{"), Ok(1));
        let older = QUOTA
            .replace(
                "apiserver.config.k8s.io/v1",
                "resourcequota.admission.k8s.io/v1beta1",
            )
            .replace("ResourceQuotaConfiguration", "Configuration");
        assert_eq!(parse(&with_file, &older), Ok(1));
    }

    // findings-2 S46
    #[test]
    fn a_wrong_configuration_is_refused_with_the_place() {
        let plugin = |rest: &str| format!("{HEAD}plugins:\n- {rest}\n");
        let with_file = plugin("{name: ResourceQuota, path: quota.yaml}");
        for (text, file, expected) in [
            ("a: [", "", "does not parse: line 1"),
            ("[]", "", "must be an object"),
            (
                "kind: Policy",
                "",
                "wrong: kind: Invalid value: \"Policy\": must be AdmissionConfiguration of \
                 apiserver.config.k8s.io/v1",
            ),
            (
                &format!("{HEAD}plugin: []"),
                "",
                "wrong: plugin: Forbidden: unknown field",
            ),
            (
                &plugin("{name: PodSecurity, configuration: {}}"),
                "",
                "wrong: plugins[0].name: Unsupported value: \"PodSecurity\": supported values: \
                 \"ResourceQuota\"",
            ),
            (
                &format!("{with_file}- {{name: ResourceQuota}}\n"),
                QUOTA,
                "wrong: plugins[1].name: Duplicate value: \"ResourceQuota\"",
            ),
            (
                &plugin("{name: ResourceQuota, path: other.yaml}"),
                "",
                "read other.yaml, which plugins[0].path names",
            ),
            (
                &plugin("{name: ResourceQuota, configuration: {limitedResources: [{}]}}"),
                "",
                "wrong: plugins[0].configuration.kind: ",
            ),
            (
                &with_file,
                &QUOTA.replace("- resource: pods", "- resources: pods"),
                "wrong: quota.yaml: limitedResources[0].resources: Forbidden: unknown field; \
                 quota.yaml: limitedResources[0].resource: Required value",
            ),
        ] {
            let error = parse(text, file).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
