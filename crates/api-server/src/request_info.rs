//! What a request is about, read from its method, path and query by upstream's rules.

use http::Method;

use crate::query::{Query, decode};

/// The attributes that authorisation and routing go by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestInfo {
    /// Whether it is about a resource at all.
    pub(crate) is_resource: bool,
    /// The path as sent.
    pub(crate) path: String,
    /// The API's verb, or the method in lower case for other requests.
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) name: String,
    /// What follows the sub-resource.
    pub(crate) rest: Vec<String>,
    /// Whether `name` comes from the path (not from a field selector).
    pub(crate) named: bool,
    /// The field selector, of requests for collections.
    pub(crate) fields: String,
}

impl RequestInfo {
    pub(crate) fn new(method: &Method, path: &str, query: &Query) -> Self {
        let mut info = Self {
            path: path.to_owned(),
            verb: method.as_str().to_ascii_lowercase(),
            ..Self::default()
        };
        let decoded: Vec<String> = path
            .split('/')
            .filter(|part| !part.is_empty())
            .map(|p| decode(p, false))
            .collect();
        let mut parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
        if parts.len() < 3 || !matches!(parts[0], "api" | "apis") {
            return info;
        }
        if parts[0] == "apis" {
            if parts.len() < 4 {
                return info;
            }
            info.group = parts[1].to_owned();
            parts.drain(..2);
        } else {
            parts.remove(0);
        }
        info.is_resource = true;
        info.version = parts.remove(0).to_owned();
        if parts[0] == "watch" && parts.len() > 1 {
            // The old path form of a watch: only the list part is left.
            parts.remove(0);
            info.verb = "watch".to_owned();
        } else {
            info.verb = verb(method).to_owned();
        }
        info.place(parts);
        info.refine(query);
        info
    }

    fn place(&mut self, mut parts: Vec<&str>) {
        if parts[0] == "namespaces" && parts.len() > 1 {
            self.namespace = parts[1].to_owned();
            if parts.len() > 2 && !matches!(parts[2], "status" | "finalize") {
                parts.drain(..2);
            }
        }
        self.resource = parts[0].to_owned();
        self.name = parts
            .get(1)
            .map(|part| (*part).to_owned())
            .unwrap_or_default();
        self.named = !self.name.is_empty();
        self.subresource = parts
            .get(2)
            .map(|part| (*part).to_owned())
            .unwrap_or_default();
        self.rest = parts
            .iter()
            .skip(3)
            .map(|part| (*part).to_owned())
            .collect();
    }

    fn refine(&mut self, query: &Query) {
        if self.named {
            return;
        }
        self.fields = query.get("fieldSelector").unwrap_or_default().to_owned();
        match self.verb.as_str() {
            "get" if query.flag("watch") => self.verb = "watch".to_owned(),
            "get" => self.verb = "list".to_owned(),
            "delete" => self.verb = "deletecollection".to_owned(),
            _ => {}
        }
        // A list of one named object may be allowed where a list of all is not.
        if matches!(self.verb.as_str(), "list" | "watch" | "deletecollection")
            && let Some(selector) = query.get("fieldSelector")
            && let Some(name) = exact_name(selector)
        {
            self.name = name.to_owned();
        }
    }

    /// Whether the request goes on for as long as the client likes.
    pub(crate) fn is_long_running(&self, query: &Query) -> bool {
        self.verb == "watch"
            || matches!(
                self.subresource.as_str(),
                "exec" | "attach" | "portforward" | "proxy"
            )
            || (self.subresource == "log" && query.flag("follow"))
    }
}

fn exact_name(selector: &str) -> Option<&str> {
    selector
        .split(',')
        .find_map(|term| {
            term.strip_prefix("metadata.name=")
                .map(|name| name.trim_start_matches('='))
        })
        .filter(|name| !name.is_empty() && !name.contains(['/', '%']))
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_upstream_reads_them() {
        // (method, path?query) -> verb group/version namespace resource/subresource name
        let cases = [
            ("GET", "/api/v1/namespaces", "list /v1 '' namespaces/ ''"),
            ("GET", "/api/v1/namespaces/a", "get /v1 'a' namespaces/ 'a'"),
            (
                "PUT",
                "/api/v1/namespaces/a/finalize",
                "update /v1 'a' namespaces/finalize 'a'",
            ),
            ("GET", "/api/v1/namespaces/a/pods", "list /v1 'a' pods/ ''"),
            (
                "GET",
                "/api/v1/namespaces/a/pods?watch=1",
                "watch /v1 'a' pods/ ''",
            ),
            (
                "GET",
                "/api/v1/watch/namespaces/a/pods",
                "watch /v1 'a' pods/ ''",
            ),
            (
                "POST",
                "/api/v1/namespaces/a/pods/p/exec",
                "create /v1 'a' pods/exec 'p'",
            ),
            (
                "DELETE",
                "/apis/apps/v1/namespaces/a/statefulsets",
                "deletecollection apps/v1 'a' statefulsets/ ''",
            ),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/a/statefulsets/w/scale",
                "patch apps/v1 'a' statefulsets/scale 'w'",
            ),
            (
                "GET",
                "/api/v1/nodes?fieldSelector=metadata.name%3Dn",
                "list /v1 '' nodes/ 'n'",
            ),
        ];
        for (method, uri, expected) in cases {
            let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let i = RequestInfo::new(&method, path, &Query::parse(query));
            assert!(i.is_resource, "{uri}");
            let seen = format!(
                "{} {}/{} '{}' {}/{} '{}'",
                i.verb, i.group, i.version, i.namespace, i.resource, i.subresource, i.name
            );
            assert_eq!(seen, expected, "{uri}");
        }
        for path in [
            "/",
            "/api",
            "/api/v1",
            "/apis/apps/v1",
            "/version",
            "/openapi/v3/apis/apps/v1",
        ] {
            assert!(
                !RequestInfo::new(&Method::GET, path, &Query::default()).is_resource,
                "{path}"
            );
        }
    }
}
