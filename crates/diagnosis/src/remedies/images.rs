//! Images that cannot be pulled.

use json_tree::json;
use pod_lifecycle::diagnosis::Remedy;
use pod_lifecycle::diagnosis::remedy::template;
use pod_lifecycle::diagnosis::text::between;

use super::DiagnosedPod;

/// The registry of images without a host in their name.
const DEFAULT_HOST: &str = "docker.io";
/// The key of the default registry's credentials in a Docker configuration.
const DEFAULT_LOGIN: &str = "https://index.docker.io/v1/";

impl DiagnosedPod<'_> {
    pub(super) fn image(&self) -> Option<Remedy> {
        let container = self.container()?;
        let image = container.image.as_deref().unwrap_or_default();
        let message = &self.diagnosis.message;
        if container.image_pull_policy.as_deref() == Some("Always") && self.is_on_a_node(image) {
            let text = "the image is on the node, but imagePullPolicy Always asks the registry each time; to use the present image";
            let change = json!({ "imagePullPolicy": "IfNotPresent" });
            return Some(self.by(text, self.change_container(change)));
        }
        if message.contains("pull access denied") || message.contains("unauthorized") {
            return Some(self.login(image));
        }
        let template = template(self.pod);
        let name = &container.name;
        let set_image = self.kubectl(&format!("set image {template} {name}=IMAGE"));
        let unreachable = [
            "cannot be reached",
            "does not answer",
            "connection refused",
            "no such host",
            "i/o timeout",
            "too slow",
        ];
        let text = if unreachable.iter().any(|text| message.contains(text)) {
            format!(
                "the registry {} has to answer the node; or bring the image to the node (mainstay \
                 image import FILE); or take an image of another registry",
                host(image)
            )
        } else {
            format!(
                "push the image to {}, import it (mainstay image import FILE), or correct its name",
                host(image)
            )
        };
        Some(Remedy::new(text).with(set_image))
    }

    /// The remedy for a registry that requires credentials.
    fn login(&self, image: &str) -> Remedy {
        let host = between(&self.diagnosis.message, "denied at ", ": ").unwrap_or(host(image));
        let server = match host {
            DEFAULT_HOST => DEFAULT_LOGIN,
            host => host,
        };
        let create = self.kubectl(&format!(
            "create secret docker-registry registry-login --docker-server={server} \
             --docker-username=USER --docker-password=PASSWORD"
        ));
        let change = json!({ "imagePullSecrets": [{ "name": "registry-login" }] });
        let mut commands = vec![create];
        commands.extend(self.change(change));
        let text = format!("if the image is at {host}, its registry wants a login; to give one");
        self.by(text, commands)
    }

    /// Whether a node's status lists the image.
    fn is_on_a_node(&self, image: &str) -> bool {
        let canonical_image = canonical(image);
        let nodes = self.observed.nodes().iter();
        let images = nodes.filter_map(|node| node.status.as_ref()?.images.as_ref());
        let mut names = images
            .flatten()
            .flat_map(|image| image.names.iter().flatten());
        names.any(|name| canonical(name) == canonical_image)
    }
}

/// The registry of an image.
fn host(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => DEFAULT_HOST,
    }
}

/// The full name: `docker.io/library/nginx:latest` of `nginx`.
fn canonical(image: &str) -> String {
    let rest = match host(image) {
        DEFAULT_HOST => image.strip_prefix("docker.io/").unwrap_or(image),
        host => image.get(host.len() + 1..).unwrap_or_default(),
    };
    let library = match host(image) == DEFAULT_HOST && !rest.contains('/') {
        true => "library/",
        false => "",
    };
    let last = rest.rsplit('/').next().unwrap_or_default();
    let tag = match last.contains([':', '@']) {
        true => "",
        false => ":latest",
    };
    format!("{}/{library}{rest}{tag}", host(image))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings U36
    #[test]
    fn names_of_images_are_compared_in_full() {
        for (short, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("docker.io/nginx:1", "docker.io/library/nginx:1"),
            ("shop/web", "docker.io/shop/web:latest"),
            ("r.example:5000/a/b:2", "r.example:5000/a/b:2"),
            ("localhost/a", "localhost/a:latest"),
            ("a@sha256:0", "docker.io/library/a@sha256:0"),
        ] {
            assert_eq!(canonical(short), full);
            assert_eq!(canonical(full), full);
        }
    }
}
