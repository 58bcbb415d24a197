//! The conversion settings of a definition (`spec.conversion`), and the checks of these settings.

use std::collections::BTreeSet;

use json_tree::Value;
use k8s_openapi::ByteString;
use object_model::{FieldError, FieldPath, names};

use super::ReviewVersion;
use crate::definition_fields::{condition, versions};

/// The version in which objects of a definition are stored, and the webhook that converts them.
#[derive(Debug)]
pub struct StorageForm {
    /// Group and version of stored objects.
    pub api_version: String,
    /// `None` if the versions differ in their names only.
    pub webhook: Option<WebhookConversion>,
}

/// A webhook that converts objects between the versions of a definition.
#[derive(Debug)]
pub struct WebhookConversion {
    pub client: WebhookClient,
    /// The authorities of the webhook's certificate, in PEM and base64; if empty, the authorities of the machine.
    pub ca_bundle: String,
    /// `None` if the webhook supports no form of `ConversionReview` that the server knows.
    pub review_version: Option<ReviewVersion>,
}

/// The address of a webhook, for conversion or for admission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebhookClient {
    Url(String),
    Service {
        namespace: String,
        name: String,
        port: u16,
        /// With a leading slash; may be empty.
        path: String,
    },
}

/// The port of a Service without a port in the settings.
const PORT: u16 = 443;

impl StorageForm {
    /// The form of a definition; `None` if the definition has no storage version.
    pub fn from_definition(definition: &Value) -> Option<Self> {
        let stored = versions(definition)
            .iter()
            .find(|version| version["storage"] == true)?;
        let group = definition["spec"]["group"].as_str()?;
        Some(Self {
            api_version: format!("{group}/{}", stored["name"].as_str()?),
            webhook: WebhookConversion::from_settings(&definition["spec"]["conversion"]),
        })
    }
}

impl WebhookConversion {
    fn from_settings(conversion: &Value) -> Option<Self> {
        if conversion["strategy"] != "Webhook" {
            return None;
        }
        let webhook = &conversion["webhook"];
        let config = &webhook["clientConfig"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let service = &config["service"];
        let client = match config["url"].as_str() {
            Some(url) => WebhookClient::Url(url.to_owned()),
            None => WebhookClient::Service {
                namespace: text(&service["namespace"]),
                name: text(&service["name"]),
                port: service["port"]
                    .as_u64()
                    .and_then(|port| u16::try_from(port).ok())
                    .unwrap_or(PORT),
                path: text(&service["path"]),
            },
        };
        let review_versions = webhook["conversionReviewVersions"].as_array();
        let review_versions = review_versions.into_iter().flatten();
        // A bundle of white space is as none, which earlier versions of Kubernetes stored.
        let bundle = text(&config["caBundle"]);
        let is_blank = certificates(&bundle).is_some_and(|pem| pem.trim_ascii().is_empty());
        Some(Self {
            client,
            ca_bundle: if is_blank { String::new() } else { bundle },
            review_version: ReviewVersion::first_supported(
                review_versions.filter_map(Value::as_str),
            ),
        })
    }
}

/// The bytes of a `caBundle`; `None` if the text is not base64.
fn certificates(bundle: &str) -> Option<Vec<u8>> {
    let bytes = json_tree::from_value::<ByteString>(Value::from(bundle));
    Some(bytes.ok()?.0)
}

/// Sets the default port of the Service.
pub(crate) fn default(conversion: &mut Value) {
    let service = conversion.pointer_mut("/webhook/clientConfig/service");
    if let Some(service) = service.and_then(Value::as_object_mut)
        && service.get("port").is_none_or(Value::is_null)
    {
        service.insert("port".to_owned(), PORT.into());
    }
}

/// The errors of `spec.conversion`. `old` is the stored definition; `None` for a new definition. As kube-apiserver, the
/// paths have the field names of its internal types.
pub(crate) fn validate(definition: &Value, old: Option<&Value>, at: &FieldPath) -> Vec<FieldError> {
    let conversion = &definition["spec"]["conversion"];
    let strategy = conversion["strategy"].as_str().unwrap_or_default();
    let webhook = &conversion["webhook"];
    let config = &webhook["clientConfig"];
    let config_at = at.child("webhookClientConfig");
    let versions_at = at.child("conversionReviewVersions");
    let review_versions = webhook["conversionReviewVersions"].as_array();
    let review_versions = review_versions.map_or(&[][..], Vec::as_slice);
    match strategy {
        "" | "None" => {
            let detail = "should not be set when strategy is not set to Webhook";
            let mut errors = Vec::new();
            if config.is_object() {
                errors.push(FieldError::forbidden(&config_at, detail));
            }
            if !review_versions.is_empty() {
                errors.push(FieldError::forbidden(&versions_at, detail));
            }
            errors
        }
        "Webhook" => {
            let mut errors = validate_client(config, &config_at);
            if !allows_invalid_bundle(old) {
                errors.extend(validate_bundle(config, &config_at));
            }
            let requires_supported = old.is_none_or(|old| {
                let old = &old["spec"]["conversion"]["webhook"]["conversionReviewVersions"];
                let old = old.as_array().map_or(&[][..], Vec::as_slice);
                old.is_empty() || has_supported(old)
            });
            errors.extend(validate_review_versions(
                review_versions,
                requires_supported,
                &versions_at,
            ));
            errors
        }
        other => vec![FieldError::not_supported(
            &at.child("strategy"),
            other,
            &["None", "Webhook"],
        )],
    }
}

fn has_supported(versions: &[Value]) -> bool {
    ReviewVersion::first_supported(versions.iter().filter_map(Value::as_str)).is_some()
}

fn validate_client(config: &Value, at: &FieldPath) -> Vec<FieldError> {
    if !config.is_object() {
        let detail = "required when strategy is set to Webhook";
        return vec![FieldError::required(at, detail)];
    }
    let (url, service) = (&config["url"], &config["service"]);
    match (url.as_str(), service.is_object()) {
        (Some(url), false) => validate_url(url, &at.child("url")),
        (None, true) => validate_service(service, &at.child("service")),
        _ => {
            let detail = "exactly one of url or service is required";
            vec![FieldError::required(at, detail)]
        }
    }
}

fn validate_url(url: &str, at: &FieldPath) -> Vec<FieldError> {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = match scheme {
        "" => "",
        _ => rest.split('/').next().unwrap_or_default(),
    };
    let (user, host) = authority.split_once('@').unwrap_or(("", authority));
    let checks = [
        (
            scheme != "https",
            scheme,
            format!("'https' is the only allowed URL scheme{FORM}"),
        ),
        (
            host.is_empty(),
            host,
            format!("host must be specified{FORM}"),
        ),
        (
            !user.is_empty(),
            user,
            "user information is not permitted in the URL".to_owned(),
        ),
        (
            !fragment.is_empty(),
            fragment,
            "fragments are not permitted in the URL".to_owned(),
        ),
        (
            !query.is_empty(),
            query,
            "query parameters are not permitted in the URL".to_owned(),
        ),
    ];
    let broken = checks.into_iter().filter(|(is_broken, ..)| *is_broken);
    broken
        .map(|(_, value, detail)| FieldError::invalid(at, value, detail))
        .collect()
}

fn validate_service(service: &Value, at: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for name in ["name", "namespace"] {
        if service[name].as_str().is_none_or(str::is_empty) {
            errors.push(FieldError::required(&at.child(name), ""));
        }
    }
    let port = &service["port"];
    if port
        .as_i64()
        .is_some_and(|port| !(1..=65535).contains(&port))
    {
        let detail = "port is not valid: must be between 1 and 65535, inclusive";
        errors.push(FieldError::invalid(&at.child("port"), port.clone(), detail));
    }
    let path = service["path"].as_str().unwrap_or_default();
    errors.extend(validate_path(path, &at.child("path")));
    errors
}

fn validate_path(path: &str, at: &FieldPath) -> Vec<FieldError> {
    let invalid = |detail: String| FieldError::invalid(at, path, detail);
    match path {
        "" | "/" => return Vec::new(),
        "//" => return vec![invalid("segment[0] may not be empty".to_owned())],
        _ => {}
    }
    let mut errors = Vec::new();
    if !path.starts_with('/') {
        errors.push(invalid("must start with a '/'".to_owned()));
    }
    let segments = path.get(1..).unwrap_or_default();
    let segments = segments.strip_suffix('/').unwrap_or(segments);
    for (index, segment) in segments.split('/').enumerate() {
        if segment.is_empty() {
            errors.push(invalid(format!("segment[{index}] may not be empty")));
            continue;
        }
        for clause in names::dns_subdomain(segment) {
            errors.push(invalid(format!("segment[{index}]: {clause}")));
        }
    }
    errors
}

/// A definition that is not established may have an invalid bundle, and so may a definition whose bundle was invalid
/// before.
fn allows_invalid_bundle(old: Option<&Value>) -> bool {
    let Some(old) = old.filter(|old| condition(old, "Established") == Some("True")) else {
        return true;
    };
    let config = &old["spec"]["conversion"]["webhook"]["clientConfig"];
    !validate_bundle(config, &FieldPath::root("spec")).is_empty()
}

fn validate_bundle(config: &Value, at: &FieldPath) -> Vec<FieldError> {
    let bundle = config["caBundle"].as_str().unwrap_or_default();
    if bundle.is_empty() || has_certificate(bundle) {
        return Vec::new();
    }
    let detail = "unable to load root certificates: data does not contain any valid RSA or ECDSA certificates";
    vec![FieldError::invalid(&at.child("caBundle"), bundle, detail)]
}

/// Whether a bundle contains a certificate in PEM. The contents of the certificate are not checked.
fn has_certificate(bundle: &str) -> bool {
    /// The tag of a sequence in DER, with which every certificate starts.
    const SEQUENCE: u8 = 0x30;
    let Some(pem) = certificates(bundle) else {
        return false;
    };
    let pem = String::from_utf8_lossy(&pem);
    let mut blocks = pem.split("-----BEGIN CERTIFICATE-----").skip(1);
    blocks.any(|block| {
        let Some((body, _)) = block.split_once("-----END CERTIFICATE-----") else {
            return false;
        };
        let body: String = body.split_ascii_whitespace().collect();
        certificates(&body).is_some_and(|der| der.first() == Some(&SEQUENCE))
    })
}

fn validate_review_versions(
    review_versions: &[Value],
    requires_supported: bool,
    at: &FieldPath,
) -> Vec<FieldError> {
    if review_versions.is_empty() {
        return vec![FieldError::required(at, "")];
    }
    let mut errors = Vec::new();
    let mut unique = BTreeSet::new();
    for (index, version) in review_versions.iter().enumerate() {
        let name = version.as_str().unwrap_or_default();
        if !unique.insert(name) {
            errors.push(FieldError::invalid(
                &at.index(index),
                name,
                "duplicate version",
            ));
            continue;
        }
        for clause in names::dns_1035_label(name) {
            errors.push(FieldError::invalid(&at.index(index), name, clause));
        }
    }
    if requires_supported && !has_supported(review_versions) {
        let detail = "must include at least one of v1, v1beta1";
        let value = Value::Array(review_versions.to_vec());
        errors.push(FieldError::invalid(at, value, detail));
    }
    errors
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    /// `-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n` in base64.
    const BUNDLE: &str =
        "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1BQT0KLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=";
    const NO_BUNDLE: &str = "bm9uZQ==";

    fn definition(conversion: Value) -> Value {
        json!({"spec": {"group": "example.org", "conversion": conversion,
            "versions": [{"name": "v1"}, {"name": "v2", "storage": true}]}})
    }

    fn webhook(config: Value, versions: Value) -> Value {
        json!({"strategy": "Webhook",
            "webhook": {"clientConfig": config, "conversionReviewVersions": versions}})
    }

    fn errors(conversion: Value) -> Vec<String> {
        let at = FieldPath::root("spec").child("conversion");
        let errors = validate(&definition(conversion), None, &at);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn settings_are_refused_with_their_fields() {
        let url = |url: &str| webhook(json!({"url": url}), json!(["v1"]));
        let service = |service: Value| webhook(json!({"service": service}), json!(["v1"]));
        let good = json!({"namespace": "a", "name": "b"});
        let none: [&str; 0] = [];
        for conversion in [
            json!({"strategy": "None"}),
            url("https://a.example.com/x"),
            url("https://a:9443"),
            service(good.clone()),
            service(json!({"namespace": "a", "name": "b", "port": 9443, "path": "/convert/x/"})),
            webhook(
                json!({"url": "https://a", "caBundle": NO_BUNDLE}),
                json!(["v2", "v1beta1"]),
            ),
        ] {
            assert_eq!(errors(conversion.clone()), none, "{conversion}");
        }
        let at = "spec.conversion.webhookClientConfig";
        let form = "; desired format: https://host[/path]";
        let refused = [
            (
                json!({"strategy": "Magic"}),
                "spec.conversion.strategy: Unsupported value: \"Magic\": supported values: \"None\", \"Webhook\"".to_owned(),
            ),
            (
                json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"]}}),
                format!("{at}: Required value: required when strategy is set to Webhook"),
            ),
            (
                webhook(json!({}), json!(["v1"])),
                format!("{at}: Required value: exactly one of url or service is required"),
            ),
            (
                webhook(json!({"url": "https://a", "service": good}), json!(["v1"])),
                format!("{at}: Required value: exactly one of url or service is required"),
            ),
            (
                url("http://a"),
                format!("{at}.url: Invalid value: \"http\": 'https' is the only allowed URL scheme{form}"),
            ),
            (
                url("https:///x"),
                format!("{at}.url: Invalid value: \"\": host must be specified{form}"),
            ),
            (
                url("https://u@a"),
                format!("{at}.url: Invalid value: \"u\": user information is not permitted in the URL"),
            ),
            (
                url("https://a/#f"),
                format!("{at}.url: Invalid value: \"f\": fragments are not permitted in the URL"),
            ),
            (
                url("https://a/?q=1"),
                format!("{at}.url: Invalid value: \"q=1\": query parameters are not permitted in the URL"),
            ),
            (
                service(json!({"namespace": "a"})),
                format!("{at}.service.name: Required value"),
            ),
            (
                service(json!({"namespace": "a", "name": "b", "port": 0})),
                format!("{at}.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive"),
            ),
            (
                service(json!({"namespace": "a", "name": "b", "path": "//"})),
                format!("{at}.service.path: Invalid value: \"//\": segment[0] may not be empty"),
            ),
            (
                webhook(json!({"url": "https://a"}), json!([])),
                "spec.conversion.conversionReviewVersions: Required value".to_owned(),
            ),
            (
                webhook(json!({"url": "https://a"}), json!(["v1", "v1"])),
                "spec.conversion.conversionReviewVersions[1]: Invalid value: \"v1\": duplicate version".to_owned(),
            ),
            (
                webhook(json!({"url": "https://a"}), json!(["v3"])),
                "spec.conversion.conversionReviewVersions: Invalid value: [\"v3\"]: must include at least one of v1, v1beta1".to_owned(),
            ),
            (
                json!({"strategy": "None", "webhook": {"clientConfig": {}}}),
                format!("{at}: Forbidden: should not be set when strategy is not set to Webhook"),
            ),
            (
                json!({"strategy": "None", "webhook": {"conversionReviewVersions": ["v1"]}}),
                "spec.conversion.conversionReviewVersions: Forbidden: should not be set when strategy is not set to Webhook".to_owned(),
            ),
        ];
        for (conversion, text) in refused {
            assert_eq!(errors(conversion), [text]);
        }
    }

    #[test]
    fn an_established_definition_keeps_a_valid_bundle_valid() {
        let with = |bundle: &str, established: &str| {
            let config = json!({"url": "https://a", "caBundle": bundle});
            let mut definition = definition(webhook(config, json!(["v1"])));
            let conditions = json!([{"type": "Established", "status": established}]);
            definition["status"] = json!({ "conditions": conditions });
            definition
        };
        let at = FieldPath::root("spec").child("conversion");
        let count = |new: &str, old: Value| validate(&with(new, "True"), Some(&old), &at).len();
        assert_eq!(count(NO_BUNDLE, with("", "False")), 0);
        assert_eq!(count(NO_BUNDLE, with(NO_BUNDLE, "True")), 0);
        assert_eq!(count(NO_BUNDLE, with("", "True")), 1);
        assert_eq!(count(NO_BUNDLE, with(BUNDLE, "True")), 1);
        assert_eq!(count(BUNDLE, with(BUNDLE, "True")), 0);
        assert_eq!(count("", with(BUNDLE, "True")), 0);
    }

    #[test]
    fn the_storage_form_has_the_storage_version_and_the_webhook() {
        let config = json!({"service": {"namespace": "a", "name": "b"}, "caBundle": "IAo="});
        let mut object = definition(webhook(config, json!(["v3", "v1beta1"])));
        default(&mut object["spec"]["conversion"]);
        let form = StorageForm::from_definition(&object).unwrap();
        assert_eq!(form.api_version, "example.org/v2");
        let webhook = form.webhook.unwrap();
        assert_eq!(webhook.review_version, Some(ReviewVersion::V1Beta1));
        assert_eq!(webhook.ca_bundle, "", "a bundle of white space");
        let client = WebhookClient::Service {
            namespace: "a".to_owned(),
            name: "b".to_owned(),
            port: 443,
            path: String::new(),
        };
        assert_eq!(webhook.client, client);
        let none = definition(json!({"strategy": "None"}));
        let form = StorageForm::from_definition(&none).unwrap();
        assert!(form.webhook.is_none());
    }
}
