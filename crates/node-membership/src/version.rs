//! Compares the version of this program with that of its server: a node may be older, and not newer
//! (docs/upgrade.md).

use json_tree::Value;
use kube_api_client::Client;

/// The reason why this program does not join the server, if the program is newer.
///
/// # Errors
/// The server does not respond.
pub async fn too_new(client: &Client) -> kube_api_client::Result<Option<String>> {
    let version: Value = client.get("/version").await?;
    let server = version["gitVersion"].as_str().unwrap_or_default();
    Ok(compared(&kube_api_server::git_version(), server))
}

fn compared(local: &str, server: &str) -> Option<String> {
    let is_newer = minors(local)? > minors(server)?;
    is_newer.then(|| {
        format!(
            "this program has the version {local}, and the server {server}: a node may not be newer than its \
             server. Upgrade the server first"
        )
    })
}

/// Major and minor version of the API and of the program, from a version such as `v1.36.0+mainstay.0.1.0`.
fn minors(version: &str) -> Option<[u32; 4]> {
    let (api, program) = version.strip_prefix('v')?.split_once("+mainstay.")?;
    let mut numbers = [0; 4];
    let parts = api.split('.').take(2).chain(program.split('.').take(2));
    for (number, part) in numbers.iter_mut().zip(parts) {
        *number = part.parse().ok()?;
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_may_be_older_than_its_server_and_not_newer() {
        for (local, server, is_refused) in [
            ("v1.36.0+mainstay.0.1.0", "v1.36.0+mainstay.0.1.0", false),
            // Releases of one version differ in neither direction.
            ("v1.36.0+mainstay.0.1.7", "v1.36.0+mainstay.0.1.0", false),
            ("v1.36.0+mainstay.0.1.0", "v1.37.0+mainstay.0.2.0", false),
            ("v1.37.0+mainstay.0.2.0", "v1.36.0+mainstay.0.1.0", true),
            ("v1.36.0+mainstay.0.10.0", "v1.36.0+mainstay.0.9.0", true),
            ("v1.36.0+mainstay.1.0.0", "v1.36.0+mainstay.0.9.0", true),
            // Another implementation of the API.
            ("v1.36.0+mainstay.0.1.0", "v1.35.2", false),
            ("v1.36.0+mainstay.0.1.0", "", false),
        ] {
            let refusal = compared(local, server);
            assert_eq!(
                refusal.is_some(),
                is_refused,
                "{local} {server}: {refusal:?}"
            );
        }
    }
}
