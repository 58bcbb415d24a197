use super::*;

const DESIRED: &str = "stable.example.com/v2";

fn original(name: &str) -> Value {
    json!({
        "apiVersion": "stable.example.com/v1", "kind": "Endpoint",
        "metadata": {"name": name, "namespace": "shop", "uid": "u", "resourceVersion": "7",
            "labels": {"a": "1"}, "finalizers": ["example.com/f"]},
        "spec": {"hostPort": "db:5432"},
    })
}

fn converted(name: &str) -> Value {
    let mut object = original(name);
    object["apiVersion"] = DESIRED.into();
    object["spec"] = json!({"host": "db", "port": "5432"});
    object
}

fn accept_as(
    version: ReviewVersion,
    originals: &[Value],
    response: Value,
) -> Result<Vec<Value>, ConversionError> {
    let conversion = Conversion {
        version,
        uid: "request".parse().unwrap(),
        desired_api_version: DESIRED,
        objects: originals,
    };
    conversion.accept(response)
}

fn accept(objects: Vec<Value>) -> Result<Vec<Value>, ConversionError> {
    accept_as(ReviewVersion::V1, &[original("x")], success(objects))
}

fn success(objects: Vec<Value>) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": {
        "uid": "request", "result": {"status": "Success"}, "convertedObjects": objects}})
}

fn changed(change: impl FnOnce(&mut Value)) -> Vec<Value> {
    let mut object = converted("x");
    change(&mut object);
    vec![object]
}

#[test]
fn a_review_has_the_first_supported_version_and_all_objects() {
    assert_eq!(ReviewVersion::first_supported(["v3"]), None);
    let version = ReviewVersion::first_supported(["v2", "v1beta1", "v1"]).unwrap();
    assert_eq!(version, ReviewVersion::V1Beta1);
    let conversion = Conversion {
        version,
        uid: "request".parse().unwrap(),
        desired_api_version: DESIRED,
        objects: &[original("x"), original("y")],
    };
    let expected = json!({"apiVersion": "apiextensions.k8s.io/v1beta1", "kind": "ConversionReview",
        "request": {"uid": "request", "desiredAPIVersion": DESIRED,
            "objects": [original("x"), original("y")]}});
    assert_eq!(conversion.review(), expected);
}

#[test]
fn converted_objects_keep_the_metadata_of_the_originals_but_for_labels_and_annotations() {
    let objects = changed(|object| {
        object["metadata"]["labels"] = json!({"a": "1", "b": "2"});
        object["metadata"]["annotations"] = json!({"example.com/n": "x"});
        object["metadata"]["finalizers"] = json!([]);
        object["metadata"]["resourceVersion"] = "8".into();
        object["metadata"]["generateName"] = "z".into();
    });
    let accepted = accept(objects).unwrap().remove(0);
    assert_eq!(accepted["spec"], json!({"host": "db", "port": "5432"}));
    let expected = json!({"name": "x", "namespace": "shop", "uid": "u", "resourceVersion": "7",
        "labels": {"a": "1", "b": "2"}, "finalizers": ["example.com/f"],
        "annotations": {"example.com/n": "x"}});
    assert_eq!(accepted["metadata"], expected);
    let without = accept(changed(|object| object["metadata"]["labels"] = Value::Null)).unwrap();
    assert_eq!(without[0]["metadata"].get("labels"), None);
}

#[test]
fn a_converted_object_has_the_identity_of_its_original() {
    let refusals: [(&str, &str, &str); 5] = [
        (
            "/apiVersion",
            "stable.example.com/v3",
            "invalid groupVersion (expected stable.example.com/v2, received stable.example.com/v3)",
        ),
        (
            "/kind",
            "Other",
            "must have the same kind: Endpoint != Other",
        ),
        ("/metadata/name", "y", "must have the same name: x != y"),
        (
            "/metadata/namespace",
            "n",
            "must have the same namespace: shop != n",
        ),
        ("/metadata/uid", "v", "must have the same UID: u != v"),
    ];
    for (pointer, value, reason) in refusals {
        let error = accept(changed(|object| {
            *object.pointer_mut(pointer).unwrap() = value.into();
        }));
        let expected = format!(
            "conversion webhook for stable.example.com/v1, Kind=Endpoint returned invalid converted object at index 0: {reason}"
        );
        assert_eq!(error.unwrap_err().to_string(), expected);
    }
}

#[test]
fn wrong_metadata_is_refused() {
    let refusals: [(&str, Value, &str); 6] = [
        (
            "/metadata/labels",
            json!(["a"]),
            "invalid metadata.labels of type []interface {} in converted object",
        ),
        (
            "/metadata/labels",
            json!({"a": 1}),
            "metadata.labels[a] must be a string, but is int64 in converted object",
        ),
        (
            "/metadata/labels",
            json!({"a": "1", "b c": "1"}),
            "metadata.labels: Invalid value: \"b c\": name part must consist of",
        ),
        (
            "/metadata/labels",
            json!({"a": "-"}),
            "metadata.labels: Invalid value: \"-\": a valid label must",
        ),
        (
            "/metadata/labels",
            json!(true),
            "invalid metadata.labels of type bool in converted object",
        ),
        (
            "/metadata/labels",
            json!({"a": {}}),
            "metadata.labels[a] must be a string, but is map[string]interface {} in converted object",
        ),
    ];
    for (pointer, value, reason) in refusals {
        let error = accept(changed(|object| {
            *object.pointer_mut(pointer).unwrap() = value;
        }));
        let text = error.unwrap_err().to_string();
        let expected = format!(
            "conversion webhook for stable.example.com/v1, Kind=Endpoint returned invalid metadata in object at index 0: {reason}"
        );
        assert!(text.starts_with(&expected), "{text}");
    }
}

#[test]
fn a_response_is_a_review_of_the_request_and_a_success_with_as_many_objects() {
    let failed = |change: fn(&mut Value)| {
        let mut response = success(vec![converted("x")]);
        change(&mut response);
        let [v1, v1beta1] = [ReviewVersion::V1, ReviewVersion::V1Beta1].map(|version| {
            let result = accept_as(version, &[original("x")], response.clone());
            let error = result.err()?.to_string();
            let parts = error.split_once("Kind=Endpoint ")?;
            Some(parts.1.to_owned())
        });
        (v1, v1beta1)
    };
    let both = |text: &str| (Some(text.to_owned()), Some(text.to_owned()));
    let first = |text: &str| (Some(text.to_owned()), None);
    assert_eq!(failed(|_| {}), (None, None));
    assert_eq!(
        failed(|response| response["kind"] = "Review".into()),
        first(
            "failed: expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got apiextensions.k8s.io/v1, Kind=Review"
        )
    );
    assert_eq!(
        failed(|response| response["response"]["uid"] = "other".into()),
        first("failed: expected response.uid=\"request\", got \"other\"")
    );
    assert_eq!(
        failed(|response| response["response"] = Value::Null),
        both("failed: no response provided")
    );
    assert_eq!(
        failed(|response| response["response"]["result"] = json!({})),
        both("failed: response.result.status was '', not 'Success'")
    );
    assert_eq!(
        failed(|response| response["response"]["result"] =
            json!({"status": "Failure", "message": "no"})),
        both("failed: no")
    );
    assert_eq!(
        failed(|response| response["response"]["convertedObjects"] = json!([])),
        both("returned 0 objects, expected 1")
    );
}
