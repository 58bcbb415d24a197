//! The parsed request: resource, verb and scope from its method, path and query, by upstream's rules.
//!
//! No other code parses these: authorisation, admission, audit, metrics and routing all use the [`RequestInfo`].
//! [`destination`](crate::handlers::destination) adds the kind at the path, and checks whether the form of the path
//! fits the scope of the kind.

use std::borrow::Cow;

use http::Method;
use object_model::FieldSelector;

use crate::http::query::{Query, decode};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestInfo {
    pub(crate) is_resource: bool,
    /// The path as the client sent it, percent-encoded, without the query.
    pub(crate) path: String,
    /// The API's verb, or the method in lower case for other requests.
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) version: String,
    /// The namespace in the path. As upstream, the namespace of a Namespace object is its own name.
    pub(crate) namespace: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    /// The name in the path, or the only name that the field selector allows.
    pub(crate) name: String,
    /// The rest of the path after the sub-resource, as the client sent it, with its leading slash.
    pub(crate) rest: String,
    /// Whether `name` comes from the path (not from a field selector).
    pub(crate) named: bool,
    /// Whether the path contains a namespace.
    pub(crate) in_namespace: bool,
    /// Whether the path has the deprecated form in which every method is a watch (`/api/v1/watch/…`).
    pub(crate) watch_path: bool,
    /// Whether a segment is empty. Such a path is never served.
    pub(crate) has_gap: bool,
    /// The field selector of a request for a collection; if it does not parse, it selects everything.
    pub(crate) fields: FieldSelector,
}

/// A segment of a path.
struct Segment<'p> {
    text: Cow<'p, str>,
    /// The offset in the path behind this segment.
    end: usize,
}

impl RequestInfo {
    pub(crate) fn new(method: &Method, path: &str, query: &Query) -> Self {
        let mut info = Self {
            path: path.to_owned(),
            verb: method.as_str().to_ascii_lowercase(),
            ..Self::default()
        };
        let segments = segments(path);
        let mut parts = segments.as_slice();
        let text = |parts: &[Segment<'_>], at: usize| parts[at].text.clone().into_owned();
        let prefix = parts.first().map_or("", |first| &*first.text);
        match (prefix, parts.len()) {
            ("api", 3..) => parts = &parts[1..],
            ("apis", 4..) => {
                info.group = text(parts, 1);
                parts = &parts[2..];
            }
            _ => return info,
        }
        info.is_resource = true;
        info.version = text(parts, 0);
        parts = &parts[1..];
        if parts[0].text == "watch" && parts.len() > 1 {
            info.watch_path = true;
            info.verb = "watch".to_owned();
            parts = &parts[1..];
        } else {
            info.verb = verb(method).to_owned();
        }
        info.place(parts);
        info.refine(query);
        info
    }

    fn place(&mut self, mut parts: &[Segment<'_>]) {
        if parts[0].text == "namespaces" && parts.len() > 1 {
            self.namespace = parts[1].text.clone().into_owned();
            self.has_gap = self.namespace.is_empty();
            let of_itself = |part: &Segment<'_>| matches!(&*part.text, "status" | "finalize");
            if parts.len() > 2 && !of_itself(&parts[2]) {
                cov_mark::hit!(findings_s4);
                self.in_namespace = true;
                parts = &parts[2..];
            }
        }
        let text = |at: usize| parts.get(at).map_or("", |part| &*part.text);
        self.resource = text(0).to_owned();
        self.name = text(1).to_owned();
        self.named = parts.len() > 1;
        self.subresource = text(2).to_owned();
        self.rest = parts
            .get(2)
            .and_then(|part| self.path.get(part.end..))
            .unwrap_or_default()
            .to_owned();
        self.has_gap |= parts.iter().take(3).any(|part| part.text.is_empty());
    }

    fn refine(&mut self, query: &Query) {
        if self.named {
            return;
        }
        let fields = query.get("fieldSelector").unwrap_or_default();
        self.fields = FieldSelector::parse(fields).unwrap_or_default();
        match self.verb.as_str() {
            "get" if query.flag("watch") => self.verb = "watch".to_owned(),
            "get" => self.verb = "list".to_owned(),
            "delete" => self.verb = "deletecollection".to_owned(),
            _ => {}
        }
        // A user may have the right to list one named object, without the right to list all objects.
        if matches!(self.verb.as_str(), "list" | "watch" | "deletecollection")
            && let Some(name) = self.fields.exact("metadata.name")
            && is_segment(name)
        {
            self.name = name.to_owned();
        }
    }

    /// The request with another verb, for an update that creates a missing object.
    pub(crate) fn with_verb(&self, verb: &str) -> Self {
        Self {
            verb: verb.to_owned(),
            ..self.clone()
        }
    }

    /// Whether the request is long-running.
    pub(crate) fn is_long_running(&self, query: &Query) -> bool {
        self.verb == "watch"
            || matches!(
                self.subresource.as_str(),
                "exec" | "attach" | "portforward" | "proxy"
            )
            || (self.subresource == "log" && query.flag("follow"))
            || self.path == node_tunnel::PATH
    }
}

fn segments(path: &str) -> Vec<Segment<'_>> {
    let inner = path.trim_start_matches('/');
    let mut end = path.len() - inner.len();
    let inner = inner.trim_end_matches('/');
    let has_escapes = path.bytes().any(|byte| byte == b'%');
    let mut segments = Vec::with_capacity(SEGMENTS_LIKELY);
    for piece in inner.split('/') {
        let segment = Segment {
            text: match has_escapes {
                true => decode(piece, false).into(),
                false => piece.into(),
            },
            end: end + piece.len(),
        };
        end = segment.end + 1;
        segments.push(segment);
    }
    segments
}

/// Capacity of the list of segments: the path of an object has at most eight.
const SEGMENTS_LIKELY: usize = 8;

/// Whether a text can be a segment of a path, and therefore a name.
pub(crate) fn is_segment(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '%'])
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
        let cases = cases.into_iter().chain([
            (
                "DELETE",
                "/api/v1/watch/namespaces/a/secrets/s",
                "watch /v1 'a' secrets/ 's'",
            ),
            (
                "GET",
                "/api/v1/namespaces/a/namespaces/b",
                "get /v1 'a' namespaces/ 'b'",
            ),
            // Only a selector for exactly one name is authorised by that name.
            (
                "GET",
                "/api/v1/nodes?fieldSelector=metadata.name%3D%3D%3Dn",
                "list /v1 '' nodes/ ''",
            ),
            (
                "GET",
                "/api/v1/nodes?fieldSelector=metadata.name!%3Dn",
                "list /v1 '' nodes/ ''",
            ),
        ]);
        for (method, uri, expected) in cases {
            let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let i = RequestInfo::new(&method, path, &Query::parse(query));
            assert!(i.is_resource, "{uri}");
            let actual = format!(
                "{} {}/{} '{}' {}/{} '{}'",
                i.verb, i.group, i.version, i.namespace, i.resource, i.subresource, i.name
            );
            assert_eq!(actual, expected, "{uri}");
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

    #[test]
    fn the_form_of_a_path_is_kept() {
        cov_mark::check!(findings_s4);
        // findings S4, S9
        let read = |path: &str| RequestInfo::new(&Method::GET, path, &Query::default());
        let inside = read("/api/v1/namespaces/a/namespaces/b");
        assert!(inside.in_namespace && !inside.watch_path);
        assert!(!read("/api/v1/namespaces/a").in_namespace);
        assert!(!read("/api/v1/namespaces/a/status").in_namespace);
        let watch = read("/api/v1/watch/namespaces/a/pods/p");
        assert!(watch.watch_path && watch.in_namespace && watch.named);
        for gap in [
            "/api/v1//pods",
            "/api/v1/namespaces//pods",
            "/api/v1/pods//log",
        ] {
            assert!(read(gap).has_gap, "{gap}");
        }
        assert!(!read("//api/v1/namespaces/a/pods/").has_gap);
        for (path, rest) in [
            ("/api/v1/namespaces/n/pods/p:80/proxy/a%20b/", "/a%20b/"),
            ("/api/v1/namespaces/n/pods/p/proxy", ""),
            ("/api/v1/nodes/n/proxy/", "/"),
            ("//api/v1/nodes/n/proxy/pods//x", "/pods//x"),
            ("/api/v1/nodes/n", ""),
        ] {
            assert_eq!(read(path).rest, rest, "{path}");
        }
    }
}
