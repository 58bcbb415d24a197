//! Content negotiation: the format of the response, and the content type of the request.

use http::HeaderMap;
use http::header::ACCEPT;
use object_model::{Status, StatusReason};

use crate::http::protobuf::PROTOBUF;

/// One clause of an `Accept` header.
pub(crate) struct AcceptClause<'a> {
    pub(crate) media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> AcceptClause<'a> {
    pub(crate) fn parameter(&self, name: &str) -> Option<&'a str> {
        self.parameters
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| *value)
    }

    /// The client's weight in thousandths; an invalid weight counts as 1000.
    fn weight(&self) -> u16 {
        let parsed: Option<f32> = self.parameter("q").and_then(|text| text.parse().ok());
        let weight = parsed.filter(|q| (0.0..=1.0).contains(q)).unwrap_or(1.0);
        // The value is between 0 and 1000.
        (weight * 1000.0) as u16
    }
}

/// The clauses of an `Accept` header by descending weight (RFC 9110, 12.4.2). Clauses of weight 0 are skipped.
pub(crate) fn clauses(header: &str) -> impl Iterator<Item = AcceptClause<'_>> {
    let clauses = header.split(',').map(|clause| {
        let mut words = clause.split(';').map(str::trim);
        let media = words.next().unwrap_or_default();
        let parameters = words.filter_map(|word| word.split_once('=')).collect();
        AcceptClause { media, parameters }
    });
    let mut accepted: Vec<(u16, AcceptClause<'_>)> = clauses
        .map(|clause| (clause.weight(), clause))
        .filter(|(weight, _)| *weight > 0)
        .collect();
    accepted.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    accepted.into_iter().map(|(_, clause)| clause)
}

/// The format of a response with objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Representation {
    Json,
    Yaml,
    /// `meta.k8s.io` Table of the given version.
    Table(&'static str),
    /// `meta.k8s.io` PartialObjectMetadata (or its List) of the given version.
    Partial(&'static str),
    Protobuf,
    /// As [`Partial`](Self::Partial), in protobuf.
    PartialProtobuf(&'static str),
    /// As [`Table`](Self::Table), in YAML.
    TableYaml(&'static str),
    /// As [`Partial`](Self::Partial), in YAML.
    PartialYaml(&'static str),
}

impl Representation {
    /// Chooses the available form with the highest weight in the `Accept` header. `protobuf` returns whether the kind
    /// has a protobuf form; it is called only if the client accepts protobuf.
    ///
    /// *Errors.* 406 if the client accepts no available form.
    pub(crate) fn of(headers: &HeaderMap, protobuf: impl Fn() -> bool) -> Result<Self, Status> {
        let exists = |form: &Self| *form != Self::Protobuf || protobuf();
        let accepted = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
        Self::choose(headers, exists, accepted)
    }

    /// Whether the response contains no more of an object than its metadata.
    pub(crate) fn is_metadata_only(self) -> bool {
        matches!(
            self,
            Self::Partial(_) | Self::PartialProtobuf(_) | Self::PartialYaml(_)
        )
    }

    /// Whether the response is YAML.
    pub(crate) fn is_yaml(self) -> bool {
        matches!(self, Self::Yaml | Self::TableYaml(_) | Self::PartialYaml(_))
    }

    /// The representation with the same content in JSON.
    pub(crate) fn in_json(self) -> Self {
        match self {
            Self::Json | Self::Yaml | Self::Protobuf => Self::Json,
            Self::Table(version) | Self::TableYaml(version) => Self::Table(version),
            Self::Partial(version)
            | Self::PartialProtobuf(version)
            | Self::PartialYaml(version) => Self::Partial(version),
        }
    }

    /// Whether a client requests no more of an object than its metadata.
    pub(crate) fn requests_metadata_only(headers: &HeaderMap) -> bool {
        Self::of(headers, || true).is_ok_and(Self::is_metadata_only)
    }

    /// Chooses the encoding of a result without table form.
    ///
    /// *Errors.* As of [`of`](Self::of).
    pub(crate) fn of_outcome(
        headers: &HeaderMap,
        protobuf: impl Fn() -> bool,
    ) -> Result<Self, Status> {
        let exists = |form: &Self| match form {
            Self::Table(_) | Self::TableYaml(_) => false,
            Self::Protobuf => protobuf(),
            _ => true,
        };
        let accepted = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
        Self::choose(headers, exists, accepted)
    }

    /// Chooses the form for the events of a watch. Events have no YAML form.
    ///
    /// *Errors.* As of [`of`](Self::of).
    pub(crate) fn of_stream(
        headers: &HeaderMap,
        protobuf: impl Fn() -> bool,
    ) -> Result<Self, Status> {
        let exists = |form: &Self| match form {
            form if form.is_yaml() => false,
            Self::Protobuf => protobuf(),
            _ => true,
        };
        let accepted = "application/json;stream=watch, \
                        application/vnd.kubernetes.protobuf;stream=watch";
        Self::choose(headers, exists, accepted)
    }

    fn choose(
        headers: &HeaderMap,
        exists: impl Fn(&Self) -> bool,
        accepted: &str,
    ) -> Result<Self, Status> {
        let Some(header) = headers.get(ACCEPT) else {
            return Ok(Self::Json);
        };
        let header = header.to_str().unwrap_or_default();
        if header.is_empty() {
            return Ok(Self::Json);
        }
        let mut forms = clauses(header).filter_map(|clause| Self::of_clause(&clause));
        forms.find(exists).ok_or_else(|| {
            let text = format!("only the following media types are accepted: {accepted}");
            Status::new(StatusReason::NotAcceptable, text)
        })
    }

    fn of_clause(clause: &AcceptClause<'_>) -> Option<Self> {
        let version = || match clause.parameter("v") {
            Some("v1") => Some("v1"),
            Some("v1beta1") => Some("v1beta1"),
            _ => None,
        };
        match (clause.media, clause.parameter("as")) {
            ("application/json" | "*/*" | "application/*", None) => Some(Self::Json),
            ("application/yaml", None) => Some(Self::Yaml),
            (PROTOBUF, None) => Some(Self::Protobuf),
            (_, Some(_)) if clause.parameter("g") != Some("meta.k8s.io") => None,
            ("application/json", Some("Table")) => version().map(Self::Table),
            ("application/json", Some("PartialObjectMetadata" | "PartialObjectMetadataList")) => {
                version().map(Self::Partial)
            }
            (PROTOBUF, Some("PartialObjectMetadata" | "PartialObjectMetadataList")) => {
                version().map(Self::PartialProtobuf)
            }
            ("application/yaml", Some("Table")) => version().map(Self::TableYaml),
            ("application/yaml", Some("PartialObjectMetadata" | "PartialObjectMetadataList")) => {
                version().map(Self::PartialYaml)
            }
            _ => None,
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Yaml | Self::TableYaml(_) | Self::PartialYaml(_) => "application/yaml",
            Self::Protobuf | Self::PartialProtobuf(_) => PROTOBUF,
            Self::Json | Self::Table(_) | Self::Partial(_) => crate::http::reply::JSON,
        }
    }

    pub(crate) fn stream_type(self) -> &'static str {
        match self {
            Self::Protobuf | Self::PartialProtobuf(_) => {
                "application/vnd.kubernetes.protobuf;stream=watch"
            }
            other => other.content_type(),
        }
    }
}

/// Whether the client wants `metadata.managedFields`. For a client that requests
/// `application/json;omit=managedFields`, objects have no managed fields, and lists and watches have half the size.
pub(crate) fn wants_managed_fields(headers: &HeaderMap) -> bool {
    let header = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    let omits = |clause: AcceptClause<'_>| clause.parameter("omit") == Some("managedFields");
    !clauses(header.unwrap_or_default()).any(omits)
}

/// The content type of a request, without parameters; JSON if the header is absent. With malformed parameters it is the
/// whole header, which is no supported type.
pub(crate) fn content_type(headers: &HeaderMap) -> String {
    let header = headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let (media, parameters) = header.split_once(';').unwrap_or((header, ""));
    let media = media.trim();
    if media.is_empty() {
        crate::http::reply::JSON.to_owned()
    } else if are_parameters(parameters) {
        media.to_ascii_lowercase()
    } else {
        header.to_owned()
    }
}

/// Whether the text is a list of parameters `name=value`, in which the last may be empty (RFC 9110, section 5.6.6). The contents of a
/// quoted value are not checked.
fn are_parameters(text: &str) -> bool {
    let is_parameter = |parameter: &str| {
        let pair = parameter.trim().split_once('=');
        pair.is_some_and(|(name, value)| !name.is_empty() && !value.is_empty())
    };
    let text = text.trim_end().trim_end_matches(';');
    text.is_empty() || text.contains('"') || text.split(';').all(is_parameter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    /// findings-2 E14
    #[test]
    fn a_content_type_with_malformed_parameters_is_not_supported() {
        let of = |text: &'static str| {
            let header = (http::header::CONTENT_TYPE, HeaderValue::from_static(text));
            content_type(&HeaderMap::from_iter([header]))
        };
        for text in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/json;charset=\"utf-8\";q=1",
            "application/json;",
        ] {
            assert_eq!(of(text), "application/json", "{text}");
        }
        for text in [
            "application/json;=",
            "application/json;charset",
            "a;b=c;;d=e",
        ] {
            assert_eq!(of(text), text);
        }
        assert_eq!(content_type(&HeaderMap::new()), "application/json");
    }

    #[test]
    fn the_first_form_that_exists_is_chosen() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,\
                     application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        let cases = [
            ("", Some(Representation::Json)),
            ("*/*", Some(Representation::Json)),
            (table, Some(Representation::Table("v1"))),
            (
                "application/vnd.kubernetes.protobuf, application/json",
                Some(Representation::Protobuf),
            ),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
                Some(Representation::PartialProtobuf("v1")),
            ),
            ("application/yaml", Some(Representation::Yaml)),
            (
                "application/yaml;as=Table;g=meta.k8s.io;v=v1",
                Some(Representation::TableYaml("v1")),
            ),
            (
                "application/yaml;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
                Some(Representation::PartialYaml("v1")),
            ),
            (
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Some(Representation::Partial("v1")),
            ),
            (
                "application/json;as=Table;v=v7;g=meta.k8s.io, */*",
                Some(Representation::Json),
            ),
            ("text/html", None),
            (
                "application/json;q=0.2, application/yaml;q=0.7, text/html",
                Some(Representation::Yaml),
            ),
            ("application/json;q=0, application/json;q=0.0", None),
            ("application/json;q=x", Some(Representation::Json)),
        ];
        for (accept, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(
                Representation::of(&headers, || true).ok(),
                expected,
                "{accept}"
            );
        }
        // kubectl.md 0.11: for kinds without a protobuf form, clients get the next accepted form.
        let mut headers = HeaderMap::new();
        let both = "application/vnd.kubernetes.protobuf,application/json";
        headers.insert(ACCEPT, HeaderValue::from_static(both));
        assert_eq!(
            Representation::of(&headers, || false).ok(),
            Some(Representation::Json)
        );
        headers.insert(ACCEPT, HeaderValue::from_static(PROTOBUF));
        assert_eq!(
            Representation::of(&headers, || false).unwrap_err().code,
            406
        );
    }
}
