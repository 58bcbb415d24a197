//! Validation of the lists of containers.

use object_model::{FieldError, names};

use super::volumes::Volumes;
use super::{
    claims, env, ephemeral, is_sidecar, ports, probes, resources, restart, security, volumes,
};
use crate::validation::field::{Field, Rules};
use crate::validation::text_set::TextSet;

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const MESSAGE_POLICIES: &[&str] = &["File", "FallbackToLogsOnError"];

/// Validates all containers of a spec. `volumes` are the volumes that can be mounted.
pub(super) fn validate(spec: &Field<'_, '_>, volumes: &Volumes<'_>, errors: &mut Vec<FieldError>) {
    let mut names = TextSet::default();
    let list = spec.get("containers");
    if list.is_empty() {
        errors.push(list.required(""));
    }
    for container in list.items() {
        common(&container, spec, volumes, errors);
        differs(&container, &mut names, errors);
        probes::validate(&container, spec, errors);
        restart::validate(&container, errors);
    }
    ports::differ(list.items(), errors);
    for container in spec.get("initContainers").items() {
        common(&container, spec, volumes, errors);
        restart::validate(&container, errors);
        differs(&container, &mut names, errors);
        // Init containers run one after the other, so each of them may use all ports.
        ports::differ(std::iter::once(container), errors);
        if is_sidecar(container.value) {
            probes::validate(&container, spec, errors);
        } else {
            // `statefulset.md` 12.3
            probes::forbid(&container, errors);
            restart::not_on_resize(&container, errors);
        }
    }
    for container in spec.get("ephemeralContainers").items() {
        common(&container, spec, volumes, errors);
        differs(&container, &mut names, errors);
        ephemeral::validate(&container, spec, errors);
    }
}

/// Checks that the name is unique among the containers of all lists.
fn differs<'a>(container: &Field<'a, '_>, names: &mut TextSet<'a>, errors: &mut Vec<FieldError>) {
    let name = container.get("name");
    if !name.is_empty() && !names.insert(name.text()) {
        errors.push(name.duplicate());
    }
}

/// Validates the common fields of containers of all lists.
fn common(
    container: &Field<'_, '_>,
    spec: &Field<'_, '_>,
    volumes: &Volumes<'_>,
    errors: &mut Vec<FieldError>,
) {
    errors.check_required_text(&container.get("name"), names::dns_label);
    if container.get("image").is_empty() {
        errors.push(container.get("image").required(""));
    }
    errors.check_among(&container.get("terminationMessagePolicy"), MESSAGE_POLICIES);
    ports::validate(container, errors);
    env::validate(container, errors);
    volumes::mounts(container, volumes, errors);
    errors.check_one_of(&container.get("imagePullPolicy"), PULL_POLICIES);
    let resources = container.get("resources");
    errors.extend(resources::validate(&resources));
    claims::of_container(&resources.get("claims"), spec, errors);
    restart::on_resize(container, spec.get("restartPolicy").text(), errors);
    security::validate_container(&container.get("securityContext"), errors);
}

/// Validates the images of a pod. The images of a template are not validated, because they may be set later.
pub(super) fn images(spec: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    for container in super::container_lists(spec).iter().flat_map(Field::items) {
        let image = container.get("image");
        if image.text().trim() != image.text() {
            errors.push(image.invalid("must not have leading or trailing whitespace"));
        }
    }
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};

    use super::*;

    fn check(mut spec: Value) -> Vec<String> {
        super::super::default_spec(&mut spec);
        let object = json!({"spec": spec});
        let spec = Field::of(&object, "spec");
        let mut errors = Vec::new();
        validate(&spec, &Volumes::new(), &mut errors);
        images(&spec, &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn containers_have_different_names_and_an_image() {
        let spec = json!({"initContainers": [{"name": "a", "image": "x"}],
            "containers": [{"name": "a", "image": "x"}, {"name": "B"}, {"image": " x"}]});
        let errors = check(spec);
        // The main containers are checked first, so the error is reported for the init container.
        assert_eq!(errors.len(), 5, "{errors:#?}");
        assert!(
            errors[0].starts_with("spec.containers[1].name: Invalid value: \"B\": a lowercase")
        );
        assert_eq!(errors[1], "spec.containers[1].image: Required value");
        assert_eq!(errors[2], "spec.containers[2].name: Required value");
        assert_eq!(
            errors[3],
            "spec.initContainers[0].name: Duplicate value: \"a\""
        );
        assert!(errors[4].ends_with("must not have leading or trailing whitespace"));
    }

    #[test]
    fn policies_are_shown_in_their_order() {
        let container = json!({"name": "a", "image": "x", "terminationMessagePolicy": "No",
            "imagePullPolicy": "No"});
        assert_eq!(
            check(json!({"containers": [container]})),
            [
                "spec.containers[0].terminationMessagePolicy: Unsupported value: \"No\": \
                 supported values: \"File\", \"FallbackToLogsOnError\"",
                "spec.containers[0].imagePullPolicy: Unsupported value: \"No\": supported \
                 values: \"Always\", \"IfNotPresent\", \"Never\"",
            ]
        );
    }

    /// `statefulset.md` 12.3
    #[test]
    fn only_sidecars_among_init_containers_have_probes() {
        let spec = |policy: Value| {
            json!({"containers": [{"name": "a", "image": "x"}], "initContainers": [{"name": "i",
                "image": "x", "restartPolicy": policy,
                "readinessProbe": {"tcpSocket": {"port": 1}}}]})
        };
        assert!(check(spec(json!("Always"))).is_empty());
        assert_eq!(
            check(spec(Value::Null)),
            [
                "spec.initContainers[0].readinessProbe: Forbidden: may not be set for \
                 init containers \
              without restartPolicy=Always"
            ]
        );
    }

    #[test]
    fn init_containers_may_have_ports_that_others_have() {
        let port = json!([{"containerPort": 1, "hostPort": 1}]);
        let spec = json!({"containers": [{"name": "a", "image": "x", "ports": port}],
            "initContainers": [{"name": "b", "image": "x", "ports": port}]});
        assert_eq!(check(spec), [""; 0]);
    }
}
