//! Pulls from a registry that requires a login: from `registries.yaml`, and from a pull secret.

use std::fs;

use end_to_end::applications::busybox;
use end_to_end::registry::{PASSWORD, USER};
use end_to_end::{Instance, Registry, wait_for};

fn pod(name: &str, image: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  \
         terminationGracePeriodSeconds: 0\n{more}  containers: [{{name: c, image: '{image}', \
         command: [sleep, '1000']}}]\n"
    )
}

#[test]
fn the_login_of_the_machine_is_used() {
    let registry = Registry::start_with_login();
    registry.push("library/busybox", "1", &busybox());
    let address = registry.address();
    let login = format!(
        "configs:\n  \"{address}\":\n    auth: {{username: {USER}, password: {PASSWORD}}}\n"
    );
    let instance = Instance::start_prepared(&[], |data| {
        let text = registry.registries_yaml() + &login;
        fs::write(data.join("registries.yaml"), text).expect("write");
    });
    let kubectl = instance.kubectl();
    kubectl.apply(&pod("known", "busybox:1", ""));
    kubectl.wait_phase("known", "Running");
}

#[test]
fn a_pull_secret_opens_what_is_closed_to_strangers() {
    let registry = Registry::start_with_login();
    registry.push("library/busybox", "1", &busybox());
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl();
    let address = registry.address();
    let image = format!("{address}/library/busybox:1");
    kubectl.apply(&pod("stranger", &image, ""));
    wait_for("the refusal to be reported", 30, || {
        let described = kubectl.ok(&["describe", "pod", "stranger"]);
        let is_denied =
            described.contains("pull access denied") && described.contains("ErrImagePull");
        if is_denied { Ok(()) } else { Err(described) }
    });
    let (server, user) = (
        format!("--docker-server={address}"),
        format!("--docker-username={USER}"),
    );
    let password = format!("--docker-password={PASSWORD}");
    kubectl.ok(&[
        "create",
        "secret",
        "docker-registry",
        "login",
        &server,
        &user,
        &password,
    ]);
    kubectl.apply(&pod(
        "invited",
        &image,
        "  imagePullSecrets: [{name: login}]\n",
    ));
    kubectl.wait_phase("invited", "Running");
}
