//! The comparison corpus: requests, and the responses that Kubernetes 1.36 documents. The cases are data in
//! `corpus/`; a row of values or of metadata is one case for each method of writing.

use json_tree::{Value, json};

use crate::harness::{Api, ApiResponse, DEFINITIONS};

const SAMPLES: &str = "/apis/corpus.example.org/v1/namespaces/default/samples";
const DEFINITION: &str = include_str!("../../corpus/definition.json");
const VALUES: &str = include_str!("../../corpus/values.jsonl");
const FORMATS: &str = include_str!("../../corpus/formats.jsonl");
const METADATA: &str = include_str!("../../corpus/metadata.jsonl");
const REQUESTS: &str = include_str!("../../corpus/requests.jsonl");

fn rows(lines: &str) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    lines.lines().map(parse).collect()
}

/// Defines the kind `Sample`, and accepts its names instead of the controller.
async fn with_samples(formats: &[Value]) -> Api {
    let api = Api::new().await;
    let mut definition: Value = serde_json::from_str(DEFINITION).unwrap();
    let root = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    let fields = definition.pointer_mut(root).unwrap();
    for row in formats {
        let format = row["format"].as_str().unwrap();
        fields[format!("format-{format}")] = json!({"type": "string", "format": format});
    }
    api.create(DEFINITIONS, definition).await;
    api.accept_definition("samples.corpus.example.org").await;
    api
}

fn sample(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "corpus.example.org/v1", "kind": "Sample", "metadata": {"name": name}, "spec": spec})
}

fn content_type(kind: &str) -> &str {
    match kind {
        "json" => "application/json-patch+json",
        "merge" => "application/merge-patch+json",
        "strategic" => "application/strategic-merge-patch+json",
        "apply" => "application/apply-patch+yaml",
        "" => "application/json",
        other => other,
    }
}

async fn request(api: &Api, method: &str, path: &str, kind: &str, body: &Value) -> ApiResponse {
    let headers = [("content-type", content_type(kind))];
    let text = match body.is_null() {
        true => String::new(),
        false => body.to_string(),
    };
    api.raw(method, path, &headers, text).await
}

/// The methods by which a client writes a value.
const WRITE_METHODS: [&str; 6] = ["create", "dry", "update", "merge", "json", "apply"];

/// Writes an object with this spec, or with this metadata, by this method.
async fn write(api: &Api, method: &str, name: &str, object: &Value, sub: &str) -> ApiResponse {
    let path = format!("{SAMPLES}/{name}");
    if method == "create" || method == "dry" {
        let query = if method == "dry" { "?dryRun=All" } else { "" };
        return request(api, "POST", &format!("{SAMPLES}{query}"), "", object).await;
    }
    if method == "apply" && sub.is_empty() {
        let path = format!("{path}?fieldManager=corpus");
        return request(api, "PATCH", &path, "apply", object).await;
    }
    let created = api.create(SAMPLES, sample(name, &json!({}))).await;
    let path = format!("{path}{sub}");
    let mut whole = created;
    for (part, value) in object.as_object().unwrap() {
        match part.as_str() {
            "metadata" => whole["metadata"]
                .as_object_mut()
                .unwrap()
                .extend(value.as_object().unwrap().clone()),
            _ => whole[part.as_str()] = value.clone(),
        }
    }
    let fields = object.as_object().unwrap().iter();
    match method {
        "update" => request(api, "PUT", &path, "", &whole).await,
        "merge" => request(api, "PATCH", &path, "merge", object).await,
        "apply" => {
            request(
                api,
                "PATCH",
                &format!("{path}?fieldManager=corpus"),
                "apply",
                object,
            )
            .await
        }
        _ => {
            let mut operations = Vec::new();
            for (part, value) in
                fields.filter(|(part, _)| !["apiVersion", "kind"].contains(&part.as_str()))
            {
                if part != "metadata" {
                    operations
                        .push(json!({"op": "add", "path": format!("/{part}"), "value": value}));
                    continue;
                }
                for (name, value) in value.as_object().unwrap() {
                    let path = format!("/metadata/{name}");
                    operations.push(json!({"op": "add", "path": path, "value": value}));
                }
            }
            request(api, "PATCH", &path, "json", &json!(operations)).await
        }
    }
}

/// The causes of a refusal as `field reason`.
fn causes(response: &Value) -> Vec<String> {
    let causes = response["details"]["causes"]
        .as_array()
        .into_iter()
        .flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    // The last cause of objects whose rules were not evaluated.
    let skipped = "some validation rules were not checked";
    causes
        .filter(|cause| !text(&cause["message"]).contains(skipped))
        .map(|cause| format!("{} {}", text(&cause["field"]), text(&cause["reason"])))
        .collect()
}

/// The difference between the causes and those of a row; in a loose row others may follow.
fn causes_differ(row: &Value, response: &Value) -> Option<String> {
    let expected = row["causes"].as_array()?;
    let mut expected: Vec<&str> = expected.iter().filter_map(Value::as_str).collect();
    let actual = causes(response);
    let mut sorted: Vec<&str> = actual.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    expected.sort_unstable();
    let is_equal = match row["loose"] == true {
        true => expected.iter().all(|cause| sorted.contains(cause)),
        false => sorted == expected,
    };
    (!is_equal).then(|| format!("causes {sorted:?} in place of {expected:?}"))
}

/// Whether a value has at least the members of another value; elements of lists are compared in their order.
fn has(value: &Value, part: &Value) -> bool {
    match (value, part) {
        (Value::Object(map), Value::Object(part)) => part
            .iter()
            .all(|(name, part)| map.get(name).is_some_and(|value| has(value, part))),
        (Value::Array(items), Value::Array(parts)) => {
            items.len() >= parts.len()
                && items.iter().zip(parts).all(|(item, part)| has(item, part))
        }
        _ => value == part,
    }
}

fn at<'v>(value: &'v Value, path: &Value) -> Option<&'v Value> {
    let path = path.as_str()?.replace('.', "/");
    value.pointer(&format!("/{path}"))
}

fn report(total: usize, min: usize, differences: &[String]) {
    assert!(
        differences.is_empty(),
        "{} of {total} differ\n{}",
        differences.len(),
        differences.join("\n")
    );
    assert!(total >= min, "{total} cases");
}

// findings-2 E4, E7, E12, K10, K13
#[tokio::test]
async fn values_of_custom_resources_are_judged_as_by_kubernetes() {
    let formats = rows(FORMATS);
    let api = with_samples(&formats).await;
    let mut values = rows(VALUES);
    for row in &formats {
        let name = format!("format-{}", row["format"].as_str().unwrap());
        let cause = format!("spec.{name} FieldValueTypeInvalid");
        values.push(json!({"spec": {name.clone(): row["good"]}, "except": ["dry", "update"]}));
        values.push(
            json!({"spec": {name: row["bad"]}, "causes": [cause], "except": ["dry", "update"]}),
        );
    }
    let (mut total, mut differences) = (0, Vec::new());
    for (index, row) in values.iter().enumerate() {
        let mut excepted = row["except"].as_array().cloned().unwrap_or_default();
        // Server-side apply refuses a value of another type before its validation, with 400.
        if row["causes"].to_string().contains("FieldValueTypeInvalid") {
            excepted.push(json!("apply"));
        }
        for method in WRITE_METHODS
            .iter()
            .filter(|method| !excepted.contains(&json!(method)))
        {
            total += 1;
            let name = format!("v{index}-{method}");
            let object = sample(&name, &row["spec"]);
            let response = write(&api, method, &name, &object, "").await;
            let code = match (row.get("causes").is_some(), *method) {
                (true, _) => 422,
                (false, "create" | "dry" | "apply") => 201,
                (false, _) => 200,
            };
            let body = response.json();
            let mut stored = match row.get("stored") {
                Some(stored) => stored.clone(),
                None => row["spec"].clone(),
            };
            for (field, preset) in [
                ("preset", json!(2)),
                ("presetMaybe", json!("x")),
                ("presetObject", json!({"a": "b", "c": 7})),
            ] {
                if stored.get(field).is_none() {
                    stored[field] = preset;
                }
            }
            let differs = if response.code != code {
                Some(format!(
                    "{} in place of {code}: {}",
                    response.code, body["message"]
                ))
            } else if code == 422 {
                causes_differ(row, &body)
            } else {
                (body["spec"] != stored)
                    .then(|| format!("stored {} in place of {stored}", body["spec"]))
            };
            differences.extend(differs.map(|text| format!("{method} {}: {text}", row["spec"])));
        }
    }
    report(total, 600, &differences);
}

// findings-2 E2
#[tokio::test]
async fn metadata_of_wrong_types_are_refused_on_each_path() {
    let api = with_samples(&[]).await;
    let (mut total, mut differences) = (0, Vec::new());
    for (index, row) in rows(METADATA).iter().enumerate() {
        for (method, sub) in WRITE_METHODS.iter().map(|method| (*method, "")).chain([
            ("update", "/status"),
            ("merge", "/status"),
            ("json", "/status"),
        ]) {
            total += 1;
            let name = format!("m{index}-{method}{}", sub.replace('/', "-"));
            let mut object = sample(&name, &json!({}));
            object["metadata"]
                .as_object_mut()
                .unwrap()
                .extend(row["metadata"].as_object().unwrap().clone());
            let response = write(&api, method, &name, &object, sub).await;
            // Upstream responds with 400 to a body, and 400, 422 or 500 to a patch, by its kind.
            let is_refused = match method {
                "create" | "dry" | "update" => response.code == 400,
                _ => (400..500).contains(&response.code),
            };
            if !is_refused {
                differences.push(format!(
                    "{method}{sub} {}: {}",
                    row["metadata"], response.code
                ));
            }
        }
    }
    let (code, list) = api.get(&format!("{SAMPLES}?labelSelector=a")).await;
    assert_eq!(code, 200, "{list}");
    report(total, 180, &differences);
}

/// A row with the names of its objects.
fn named(row: &Value, name: &str) -> Value {
    let text = row.to_string().replace('$', name);
    serde_json::from_str(&text).unwrap()
}

fn path_of(row: &Value) -> String {
    let path = row["path"].as_str().unwrap();
    path.replace("SAMPLES", SAMPLES)
        .replace("DEFINITIONS", DEFINITIONS)
}

/// The body of a request. A whole object that names no kind is a `Sample`.
fn body_of(row: &Value) -> Option<Value> {
    let mut body = row.get("body")?.clone();
    let is_sample = row["path"].as_str()?.starts_with("SAMPLES");
    let is_whole = is_sample && matches!(row["method"].as_str()?, "POST" | "PUT");
    if is_whole && body.get("kind").is_none() {
        body["kind"] = json!("Sample");
        body["apiVersion"] = json!("corpus.example.org/v1");
    }
    Some(body)
}

/// The difference between a response and a row.
fn differs(row: &Value, code: u16, body: &Value) -> Option<String> {
    if Some(u64::from(code)) != row["code"].as_u64() {
        return Some(format!(
            "{code} in place of {}: {}",
            row["code"], body["message"]
        ));
    }
    if row
        .get("reason")
        .is_some_and(|reason| *reason != body["reason"])
    {
        return Some(format!("the reason {}", body["reason"]));
    }
    if row.get("has").is_some_and(|part| !has(body, part)) {
        return Some(format!("{body} without {}", row["has"]));
    }
    let paths = |name: &str| row[name].as_array().cloned().unwrap_or_default();
    if let Some(path) = paths("lacks").iter().find(|path| at(body, path).is_some()) {
        return Some(format!("{path} is there"));
    }
    if let Some(path) = paths("present")
        .iter()
        .find(|path| at(body, path).is_none())
    {
        return Some(format!("{path} is absent"));
    }
    let items = body["items"].as_array().map_or(0, Vec::len);
    if row.get("items").is_some_and(|count| *count != items) {
        return Some(format!("{items} items"));
    }
    if row
        .get("cells")
        .is_some_and(|cells| *cells != body["rows"][0]["cells"])
    {
        return Some(format!("the cells {}", body["rows"][0]["cells"]));
    }
    causes_differ(row, body)
}

// findings-2 E1, E9, E10, E11, E13, E14, K8
#[tokio::test]
async fn requests_have_the_responses_of_kubernetes() {
    let api = with_samples(&[]).await;
    let rows = rows(REQUESTS);
    let mut differences = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let name = format!("r{index}");
        let row = named(row, &name);
        if let Some(spec) = row.get("object") {
            api.create(SAMPLES, sample(&name, spec)).await;
        }
        if let Some(spec) = row.get("stored") {
            // An earlier version of the definition accepted the value.
            api.create(SAMPLES, sample(&name, &json!({"text": "old"})))
                .await;
            let text = spec.to_string();
            let fields = text
                .strip_prefix('{')
                .and_then(|text| text.strip_suffix('}'));
            let fields = fields.unwrap();
            let change = |stored: &str| stored.replace(r#""text":"old""#, fields);
            api.rewrite_stored(&format!("/{name}"), change).await;
        }
        let method = row["method"].as_str().unwrap();
        let kind = row["type"].as_str().unwrap_or_default();
        let accept = row["accept"].as_str().unwrap_or("application/json");
        let headers = [("content-type", content_type(kind)), ("accept", accept)];
        let text = body_of(&row).map(|body| body.to_string());
        let text = text.unwrap_or_default();
        let response = api.raw(method, &path_of(&row), &headers, text).await;
        let mut difference = differs(&row, response.code, &response.json());
        if let (None, Some(then)) = (&difference, row.get("then")) {
            let (code, body) = api.get(&path_of(then)).await;
            difference = differs(then, code, &body).map(|text| format!("then {text}"));
        }
        differences.extend(difference.map(|text| format!("{}: {text}", row["what"])));
    }
    report(rows.len(), 90, &differences);
}
