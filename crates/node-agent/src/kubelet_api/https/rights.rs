//! The rights that a request of the kubelet's API needs: kubelet's table, with the fine-grained rights of
//! KEP-2862.

use http::Method;

/// A right on one of several subresources of the node. A right on any one subresource is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// The verb of the SubjectAccessReview: `get` or `create`.
    pub verb: &'static str,
    /// The subresources, the most specific first.
    pub subresources: &'static [&'static str],
}

/// The rights for a request; `None` for methods that the API does not have.
///
/// A command or a connection in a container needs `create`, even if the request is a GET: a WebSocket
/// request is a GET, and the right to read must not be enough.
pub fn rights(method: &Method, path: &str) -> Option<Rights> {
    let first_part = path.trim_start_matches('/').split('/').next();
    let first_part = first_part.unwrap_or_default();
    let verb = match *method {
        Method::GET | Method::HEAD | Method::POST if is_interactive(first_part) => "create",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => return None,
    };
    let subresources: &[_] = match first_part {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "spec" => &["spec"],
        "checkpoint" => &["checkpoint"],
        "healthz" => &["healthz", "proxy"],
        "configz" => &["configz", "proxy"],
        "pods" | "runningpods" => &["pods", "proxy"],
        _ => &["proxy"],
    };
    Some(Rights { verb, subresources })
}

fn is_interactive(first_part: &str) -> bool {
    matches!(first_part, "exec" | "attach" | "portForward" | "run")
}

#[cfg(test)]
mod tests {
    use super::*;

    // KEP-2862
    #[test]
    fn paths_need_rights_on_subresources_of_nodes() {
        for (method, path, verb, subresources) in [
            (Method::GET, "/stats/summary", "get", "stats"),
            (Method::GET, "/metrics", "get", "metrics"),
            (Method::GET, "/metrics/cadvisor", "get", "metrics"),
            (Method::GET, "/metricsx", "get", "proxy"),
            (Method::GET, "/logs/syslog", "get", "log"),
            (Method::GET, "/spec/", "get", "spec"),
            (Method::POST, "/checkpoint/n/p/c", "create", "checkpoint"),
            (Method::HEAD, "/healthz", "get", "healthz proxy"),
            (Method::GET, "/configz", "get", "configz proxy"),
            (Method::GET, "/pods", "get", "pods proxy"),
            (Method::GET, "/runningpods/", "get", "pods proxy"),
            (Method::GET, "/containerLogs/n/p/c", "get", "proxy"),
            (Method::POST, "/exec/n/p/c", "create", "proxy"),
            (Method::GET, "/exec/n/p/c", "create", "proxy"),
            (Method::GET, "//exec/n/p/c", "create", "proxy"),
            (Method::GET, "/attach/n/p/c", "create", "proxy"),
            (Method::GET, "/portForward/n/p", "create", "proxy"),
            (Method::PUT, "/pods", "update", "pods proxy"),
            (Method::PATCH, "/", "patch", "proxy"),
            (Method::DELETE, "/", "delete", "proxy"),
        ] {
            let rights_of_path = rights(&method, path).unwrap();
            assert_eq!(rights_of_path.verb, verb, "{method} {path}");
            assert_eq!(
                rights_of_path.subresources.join(" "),
                subresources,
                "{path}"
            );
        }
        assert_eq!(rights(&Method::CONNECT, "/pods"), None);
        assert_eq!(rights(&Method::OPTIONS, "/exec/n/p/c"), None);
    }
}
