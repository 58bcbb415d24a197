//! A container's environment, command and arguments (statefulset.md §12.11, §12.12, §10.16).

pub mod downward;
pub mod env_file;
pub mod expansion;
pub mod hostname;
pub mod hosts_file;
pub mod resolv_conf;
pub mod service_env;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, EnvVarSource, FileKeySelector, Pod};

use downward::NodeFacts;
use expansion::expand;

/// The objects for a container's environment, which the caller has read. Absent objects are not in the
/// maps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sources {
    /// Data of ConfigMaps in the pod's namespace.
    pub config_maps: BTreeMap<String, BTreeMap<String, String>>,
    /// Data of Secrets in the pod's namespace.
    pub secrets: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// Contents of files by volume and path. Absent files are not in the map.
    pub files: BTreeMap<(String, String), String>,
    /// The data of the node for the downward API.
    pub facts: NodeFacts,
    /// Variables of Services, for instance `WEB_SERVICE_HOST`.
    pub services: Vec<(String, String)>,
}

impl Sources {
    /// The total bytes of the ConfigMaps and Secrets.
    pub fn object_bytes(&self) -> usize {
        let of_maps = self.config_maps.values().flatten();
        let of_secrets = self.secrets.values().flatten();
        of_maps
            .map(|(key, value)| key.len() + value.len())
            .chain(of_secrets.map(|(key, value)| key.len() + value.len()))
            .sum()
    }
}

/// The objects that a container's environment references, by name, with the keys that it needs from each
/// object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    pub config_maps: BTreeMap<String, NeededKeys>,
    pub secrets: BTreeMap<String, NeededKeys>,
}

/// The keys of an object that an environment needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NeededKeys {
    /// All keys (`envFrom`).
    All,
    /// The listed keys (`valueFrom`).
    Some(BTreeSet<String>),
}

impl NeededKeys {
    pub fn contains(&self, key: &str) -> bool {
        match self {
            Self::All => true,
            Self::Some(keys) => keys.contains(key),
        }
    }
}

/// The reason why an environment is incomplete, as a message for users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncompleteEnvironment {
    /// The missing object or key.
    pub message: String,
}

pub fn references(container: &Container) -> References {
    let mut references = References::default();
    for source in container.env_from.iter().flatten() {
        if let Some(reference) = &source.config_map_ref {
            let name = reference.name.clone();
            references.config_maps.insert(name, NeededKeys::All);
        }
        if let Some(reference) = &source.secret_ref {
            let name = reference.name.clone();
            references.secrets.insert(name, NeededKeys::All);
        }
    }
    let need = |objects: &mut BTreeMap<String, NeededKeys>, name: &str, key: &str| {
        let keys = objects.entry(name.to_owned());
        if let NeededKeys::Some(keys) = keys.or_insert(NeededKeys::Some(BTreeSet::new())) {
            keys.insert(key.to_owned());
        }
    };
    let variables = container.env.iter().flatten();
    for source in variables.filter_map(|variable| variable.value_from.as_ref()) {
        if let Some(reference) = &source.config_map_key_ref {
            need(&mut references.config_maps, &reference.name, &reference.key);
        }
        if let Some(reference) = &source.secret_key_ref {
            need(&mut references.secrets, &reference.name, &reference.key);
        }
    }
    references
}

/// The container's environment, in the order of the specification.
///
/// # Errors
/// A required object or key does not exist.
pub fn environment(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
) -> Result<Vec<(String, String)>, IncompleteEnvironment> {
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut result: Vec<(String, String)> = Vec::new();
    for (name, value) in from_objects(container, sources)? {
        values.insert(name.clone(), value.clone());
        result.push((name, value));
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(text), _) if !text.is_empty() => Some(expand(text, |name| {
                let service = || sources.services.iter().find(|(n, _)| n == name);
                values
                    .get(name)
                    .cloned()
                    .or_else(|| service().map(|(_, v)| v.clone()))
            })),
            (_, Some(source)) => value_from(pod, container, sources, source)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            values.insert(variable.name.clone(), value.clone());
            result.push((variable.name.clone(), value));
        }
    }
    for (name, value) in &sources.services {
        if !values.contains_key(name) {
            result.push((name.clone(), value.clone()));
        }
    }
    Ok(last_of_each(result))
}

/// Keeps the last value of each name, at its position.
pub fn last_of_each(list: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut names = std::collections::BTreeSet::new();
    let mut variables: Vec<_> = list
        .into_iter()
        .rev()
        .filter(|(name, _)| names.insert(name.clone()))
        .collect();
    variables.reverse();
    variables
}

fn from_objects(
    container: &Container,
    sources: &Sources,
) -> Result<Vec<(String, String)>, IncompleteEnvironment> {
    let mut variables = Vec::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let mut add = |name: &str, value: String| {
            let name = format!("{prefix}{name}");
            // A variable's name cannot contain `=`.
            if !name.is_empty() && !name.contains('=') {
                variables.push((name, value));
            }
        };
        if let Some(reference) = &source.config_map_ref {
            match sources.config_maps.get(&reference.name) {
                Some(data) => data
                    .iter()
                    .for_each(|(name, value)| add(name, value.clone())),
                None if reference.optional == Some(true) => {}
                None => return Err(absent("configmap", &reference.name)),
            }
        }
        if let Some(reference) = &source.secret_ref {
            match sources.secrets.get(&reference.name) {
                Some(data) => data.iter().for_each(|(name, value)| add(name, text(value))),
                None if reference.optional == Some(true) => {}
                None => return Err(absent("secret", &reference.name)),
            }
        }
    }
    Ok(variables)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn absent(kind: &str, name: &str) -> IncompleteEnvironment {
    IncompleteEnvironment {
        message: format!("{kind} \"{name}\" not found"),
    }
}

fn value_from(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
    source: &EnvVarSource,
) -> Result<Option<String>, IncompleteEnvironment> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let no_key = |kind: &str, name: &str, key: &str| IncompleteEnvironment {
        message: format!("couldn't find key {key} in {kind} {namespace}/{name}"),
    };
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let Some(data) = sources.config_maps.get(&reference.name) else {
            return if optional {
                Ok(None)
            } else {
                Err(absent("configmap", &reference.name))
            };
        };
        return match data.get(&reference.key) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(no_key("ConfigMap", &reference.name, &reference.key)),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional == Some(true);
        let Some(data) = sources.secrets.get(&reference.name) else {
            return if optional {
                Ok(None)
            } else {
                Err(absent("secret", &reference.name))
            };
        };
        return match data.get(&reference.key) {
            Some(value) => Ok(Some(text(value))),
            None if optional => Ok(None),
            None => Err(no_key("Secret", &reference.name, &reference.key)),
        };
    }
    let unsupported = |error: downward::Unsupported| IncompleteEnvironment {
        message: error.message,
    };
    if let Some(reference) = &source.field_ref {
        let value = downward::field(pod, &sources.facts, &reference.field_path);
        return value.map(Some).map_err(unsupported);
    }
    if let Some(reference) = &source.resource_field_ref {
        let value = downward::resource(pod, Some(container), &sources.facts, reference);
        return value.map(Some).map_err(unsupported);
    }
    if let Some(reference) = &source.file_key_ref {
        return of_file(sources, reference);
    }
    Ok(Some(String::new()))
}

fn of_file(
    sources: &Sources,
    reference: &FileKeySelector,
) -> Result<Option<String>, IncompleteEnvironment> {
    let FileKeySelector {
        key,
        path,
        volume_name,
        ..
    } = reference;
    let file = (volume_name.clone(), path.clone());
    let value = match sources.files.get(&file) {
        Some(text) => env_file::value(text, key).map_err(|error| IncompleteEnvironment {
            message: format!("environment file {path} of volume {volume_name}: {error}"),
        })?,
        None => None,
    };
    match value {
        None if reference.optional != Some(true) => Err(IncompleteEnvironment {
            message: format!("couldn't find key {key} in file {path} of volume {volume_name}"),
        }),
        value => Ok(value),
    }
}

/// The files that the container's environment references, by volume and path.
pub fn files(container: &Container) -> BTreeSet<(String, String)> {
    let sources = container.env.iter().flatten();
    let references = sources.filter_map(|var| var.value_from.as_ref()?.file_key_ref.as_ref());
    references
        .map(|reference| (reference.volume_name.clone(), reference.path.clone()))
        .collect()
}

/// The program and its arguments, with references expanded: from the container or, if it has none, from the
/// image.
pub fn arguments(
    container: &Container,
    image_entrypoint: &[String],
    image_cmd: &[String],
    env: &[(String, String)],
) -> Vec<String> {
    let value = |name: &str| {
        env.iter()
            .rev()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.clone())
    };
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter()
            .flatten()
            .map(|word| expand(word, value))
            .collect()
    };
    let command = expanded(&container.command);
    let args = expanded(&container.args);
    match (command.is_empty(), args.is_empty()) {
        (false, _) => [command, args].concat(),
        (true, false) => [image_entrypoint.to_vec(), args].concat(),
        (true, true) => [image_entrypoint, image_cmd].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        json_tree::from_value(json_tree::json!({
            "metadata": {"name": "web-0", "namespace": "shop"}, "spec": {"containers": []}
        }))
        .unwrap()
    }

    fn container(value: json_tree::Value) -> Container {
        let mut whole = json_tree::json!({"name": "c"});
        for (key, part) in value.as_object().unwrap() {
            whole[key] = part.clone();
        }
        json_tree::from_value(whole).unwrap()
    }

    fn sources() -> Sources {
        Sources {
            config_maps: [("conf".to_owned(), [("K".to_owned(), "v".to_owned())].into())].into(),
            secrets: [("sec".to_owned(), [("P".to_owned(), b"pw".to_vec())].into())].into(),
            files: [(
                ("v".to_owned(), "conf.env".to_owned()),
                "K='filed'\n".to_owned(),
            )]
            .into(),
            facts: NodeFacts::default(),
            services: vec![("S_HOST".to_owned(), "10.96.0.7".to_owned())],
        }
    }

    fn env(value: json_tree::Value) -> Result<Vec<String>, String> {
        match environment(&pod(), &container(value), &sources()) {
            Ok(list) => Ok(list.into_iter().map(|(k, v)| format!("{k}={v}")).collect()),
            Err(error) => Err(error.message),
        }
    }

    #[test]
    fn earlier_variables_and_services_are_expanded_later_ones_not() {
        // statefulset.md 12.12
        let variables = env(json_tree::json!({"env": [
            {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$(C)"},
            {"name": "C", "value": "$(S_HOST)"}, {"name": "D"}]}));
        assert_eq!(
            variables.unwrap(),
            ["A=1", "B=1$(C)", "C=10.96.0.7", "D=", "S_HOST=10.96.0.7"]
        );
    }

    #[test]
    fn objects_give_variables_and_own_ones_win() {
        // statefulset.md 12.12
        let variables = env(json_tree::json!({
            "envFrom": [{"configMapRef": {"name": "conf"}},
                {"prefix": "X_", "secretRef": {"name": "sec"}},
                {"configMapRef": {"name": "none", "optional": true}}],
            "env": [{"name": "K", "value": "own"},
                {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "O", "valueFrom":
                    {"configMapKeyRef": {"name": "conf", "key": "none", "optional": true}}}]}));
        assert_eq!(
            variables.unwrap(),
            ["X_P=pw", "K=own", "N=web-0", "S_HOST=10.96.0.7"]
        );
    }

    #[test]
    fn files_give_variables() {
        // statefulset.md 12.12
        let of = |key: &str, path: &str, optional: bool| {
            let reference = json_tree::json!({
                "volumeName": "v", "path": path, "key": key, "optional": optional});
            env(json_tree::json!({"env": [
                {"name": "F", "valueFrom": {"fileKeyRef": reference}},
                {"name": "G", "value": "$(F)"}]}))
        };
        let service = "S_HOST=10.96.0.7";
        assert_eq!(
            of("K", "conf.env", false).unwrap(),
            ["F=filed", "G=filed", service]
        );
        assert_eq!(of("L", "conf.env", true).unwrap(), ["G=$(F)", service]);
        assert_eq!(of("K", "none.env", true).unwrap(), ["G=$(F)", service]);
        let message = of("K", "none.env", false).unwrap_err();
        assert_eq!(message, "couldn't find key K in file none.env of volume v");
    }

    #[test]
    fn missing_objects_and_keys_are_named() {
        // statefulset.md 12.13
        for (value, message) in [
            (
                json_tree::json!({"envFrom": [{"configMapRef": {"name": "none"}}]}),
                "configmap \"none\" not found",
            ),
            (
                json_tree::json!({"env": [{"name": "A", "valueFrom":
                    {"secretKeyRef": {"name": "sec", "key": "none"}}}]}),
                "couldn't find key none in Secret shop/sec",
            ),
        ] {
            assert_eq!(env(value).unwrap_err(), message);
        }
    }

    #[test]
    fn command_replaces_entrypoint_and_image_arguments() {
        // statefulset.md 12.12
        let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let env = [("A".to_owned(), "1".to_owned())];
        let (entry, cmd) = (words(&["entry"]), words(&["arg"]));
        for (value, expected) in [
            (json_tree::json!({}), words(&["entry", "arg"])),
            (json_tree::json!({"args": ["$(A)"]}), words(&["entry", "1"])),
            (json_tree::json!({"command": ["c"]}), words(&["c"])),
            (
                json_tree::json!({"command": ["c"], "args": ["x"]}),
                words(&["c", "x"]),
            ),
        ] {
            assert_eq!(arguments(&container(value), &entry, &cmd, &env), expected);
        }
    }

    // findings-2 S39
    #[test]
    fn an_environment_needs_only_the_keys_that_it_names() {
        let container: Container = json_tree::from_value(json_tree::json!({
            "name": "c",
            "env": [
                {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "some", "key": "a"}}},
                {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "all", "key": "b"}}},
                {"name": "C", "valueFrom": {"secretKeyRef": {"name": "some", "key": "c"}}},
                {"name": "D", "valueFrom": {"secretKeyRef": {"name": "some", "key": "d"}}}
            ],
            "envFrom": [{"configMapRef": {"name": "all"}}]
        }))
        .unwrap();
        let needed = references(&container);
        let contain = |objects: &BTreeMap<String, NeededKeys>, name: &str, key: &str| {
            objects.get(name).map(|needed| needed.contains(key))
        };
        for (name, key, is_needed) in [
            ("some", "a", Some(true)),
            ("some", "b", Some(false)),
            ("all", "z", Some(true)),
            ("none", "a", None),
        ] {
            assert_eq!(
                contain(&needed.config_maps, name, key),
                is_needed,
                "{name} {key}"
            );
        }
        assert_eq!(contain(&needed.secrets, "some", "c"), Some(true));
        assert_eq!(contain(&needed.secrets, "some", "d"), Some(true));
        assert_eq!(contain(&needed.secrets, "some", "a"), Some(false));
    }
}
