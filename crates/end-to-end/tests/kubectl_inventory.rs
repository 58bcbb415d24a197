//! The served APIs, group by group, and the kinds that are stored without effect for clients that read them (kubectl.md
//! 10).

use end_to_end::{Instance, Kubectl};
use serde_json::Value;

#[test]
fn everything_that_charts_touch() {
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl();
    served(&kubectl);
    keeps_objects(&kubectl);
    devices(&kubectl);
    local_groups_are_available(&kubectl);
    policies(&kubectl.in_new_namespace("policies"));
    reviews(&kubectl);
    flows(&kubectl);
}

/// kubectl.md 10.1 to 10.5: each group version, with its resources and their sub-resources.
const SERVED: &[(&str, &str)] = &[
    (
        "/api/v1",
        "namespaces namespaces/status namespaces/finalize nodes nodes/status nodes/proxy pods \
         pods/status pods/log pods/exec pods/attach pods/portforward pods/eviction \
         pods/ephemeralcontainers pods/resize pods/binding pods/proxy services services/status \
         services/proxy endpoints configmaps secrets serviceaccounts serviceaccounts/token events \
         persistentvolumes persistentvolumes/status persistentvolumeclaims \
         persistentvolumeclaims/status limitranges resourcequotas podtemplates \
         replicationcontrollers replicationcontrollers/scale replicationcontrollers/status",
    ),
    (
        "/apis/apps/v1",
        "statefulsets statefulsets/status statefulsets/scale deployments deployments/status \
         deployments/scale replicasets replicasets/status replicasets/scale daemonsets \
         daemonsets/status controllerrevisions",
    ),
    (
        "/apis/batch/v1",
        "jobs jobs/status cronjobs cronjobs/status",
    ),
    (
        "/apis/policy/v1",
        "poddisruptionbudgets poddisruptionbudgets/status",
    ),
    (
        "/apis/autoscaling/v2",
        "horizontalpodautoscalers horizontalpodautoscalers/status",
    ),
    (
        "/apis/storage.k8s.io/v1",
        "storageclasses volumeattachments csinodes csidrivers csistoragecapacities \
         volumeattributesclasses",
    ),
    (
        "/apis/networking.k8s.io/v1",
        "networkpolicies ingresses ingresses/status ingressclasses ipaddresses servicecidrs",
    ),
    ("/apis/discovery.k8s.io/v1", "endpointslices"),
    ("/apis/coordination.k8s.io/v1", "leases"),
    ("/apis/events.k8s.io/v1", "events"),
    (
        "/apis/rbac.authorization.k8s.io/v1",
        "roles rolebindings clusterroles clusterrolebindings",
    ),
    (
        "/apis/authentication.k8s.io/v1",
        "tokenreviews selfsubjectreviews",
    ),
    (
        "/apis/authorization.k8s.io/v1",
        "subjectaccessreviews selfsubjectaccessreviews localsubjectaccessreviews \
         selfsubjectrulesreviews",
    ),
    (
        "/apis/resource.k8s.io/v1",
        "deviceclasses resourceclaims resourceclaims/status resourceclaimtemplates resourceslices",
    ),
    ("/apis/scheduling.k8s.io/v1", "priorityclasses"),
    ("/apis/node.k8s.io/v1", "runtimeclasses"),
    (
        "/apis/flowcontrol.apiserver.k8s.io/v1",
        "flowschemas flowschemas/status prioritylevelconfigurations \
         prioritylevelconfigurations/status",
    ),
    (
        "/apis/admissionregistration.k8s.io/v1",
        "validatingwebhookconfigurations mutatingwebhookconfigurations \
         validatingadmissionpolicies validatingadmissionpolicybindings",
    ),
    (
        "/apis/apiextensions.k8s.io/v1",
        "customresourcedefinitions customresourcedefinitions/status",
    ),
    (
        "/apis/apiregistration.k8s.io/v1",
        "apiservices apiservices/status",
    ),
];

fn served(kubectl: &Kubectl) {
    for (path, resources_text) in SERVED {
        let document = kubectl.ok(&["get", "--raw", path]);
        let document: Value = serde_json::from_str(&document).expect("JSON");
        let resources = document["resources"].as_array().expect("a list");
        for name in resources_text.split_whitespace() {
            let is_served = resources.iter().any(|resource| resource["name"] == name);
            assert!(is_served, "{name} is not in {path}: {document}");
        }
    }
}

/// kubectl.md 10.3, 10.4: kinds without a controller are stored unchanged.
fn keeps_objects(kubectl: &Kubectl) {
    let objects = "
{apiVersion: storage.k8s.io/v1, kind: VolumeAttributesClass, metadata: {name: gold},
  driverName: disks.example.com, parameters: {iops: '100'}}
---
{apiVersion: storage.k8s.io/v1, kind: CSIStorageCapacity, metadata: {name: free},
  storageClassName: local, capacity: 1Gi, nodeTopology: {}}
---
{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: more},
  spec: {cidrs: [10.200.0.0/24, 'fd00::/112']}}
---
{apiVersion: networking.k8s.io/v1, kind: IPAddress, metadata: {name: 10.200.0.7},
  spec: {parentRef: {resource: services, namespace: default, name: s}}}
---
{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: sandbox}, handler: runsc}
";
    let created = kubectl.run_with_input(&["apply", "-f", "-"], objects);
    assert_eq!(created.code, 0, "{created:?}");
    assert!(
        created.stderr.contains("does not act on it yet"),
        "{created:?}"
    );
    let again = kubectl.ok_with_input(&["apply", "-f", "-"], objects);
    assert!(
        again.lines().all(|line| line.ends_with(" unchanged")),
        "{again}"
    );
    let row = |kind: &str, name: &str| {
        let printed = kubectl.ok(&["get", kind, name, "--no-headers"]);
        let mut words: Vec<String> = printed.split_whitespace().map(str::to_owned).collect();
        words.truncate(3);
        words.join(" ")
    };
    assert_eq!(row("csistoragecapacities", "free"), "free local 1Gi");
    assert!(row("vac", "gold").starts_with("gold disks.example.com"));
    assert!(row("servicecidrs", "more").starts_with("more 10.200.0.0/24"));
    assert!(row("ip", "10.200.0.7").starts_with("10.200.0.7 services/default/s"));
    let ready = "--for=condition=Ready";
    kubectl.ok(&["wait", ready, "servicecidr/kubernetes", "--timeout=300s"]);
    // Each address of a Service has its object, as long as the Service exists.
    kubectl.ok(&["create", "service", "clusterip", "brief", "--tcp=80"]);
    let address = kubectl.json(&["get", "service", "brief"])["spec"]["clusterIP"].clone();
    let address = address.as_str().expect("an address");
    assert!(row("ip", address).starts_with(&format!("{address} services/default/brief")));
    kubectl.ok(&["delete", "service", "brief"]);
    assert!(kubectl.fails(&["get", "ip", address]).contains("NotFound"));
}

/// findings C42: claims of devices, as kubectl prints them.
fn devices(kubectl: &Kubectl) {
    let objects = "
{apiVersion: resource.k8s.io/v1, kind: DeviceClass, metadata: {name: gpu}, spec: {selectors: [
  {cel: {expression: device.driver == 'dra.example.com'}}]}}
---
{apiVersion: resource.k8s.io/v1, kind: ResourceSlice, metadata: {name: board}, spec: {
  driver: dra.example.com, nodeName: elsewhere,
  pool: {name: elsewhere, generation: 1, resourceSliceCount: 1}, devices: [{name: gpu-0}]}}
---
{apiVersion: resource.k8s.io/v1, kind: ResourceClaim, metadata: {name: mine}, spec: {devices: {
  requests: [{name: one, exactly: {deviceClassName: gpu}}]}}}
---
{apiVersion: resource.k8s.io/v1, kind: ResourceClaimTemplate, metadata: {name: each}, spec: {spec: {
  devices: {requests: [{name: one, exactly: {deviceClassName: gpu}}]}}}}
";
    kubectl.ok_with_input(&["create", "-f", "-"], objects);
    let claims = kubectl.ok(&["get", "resourceclaims", "--no-headers"]);
    assert!(
        claims.starts_with("mine") && claims.contains("pending"),
        "{claims}"
    );
    let slices = kubectl.ok(&["get", "resourceslices", "--no-headers"]);
    let words: Vec<&str> = slices.split_whitespace().take(4).collect();
    assert_eq!(
        words,
        ["board", "elsewhere", "dra.example.com", "elsewhere"]
    );
    for (kind, name, printed) in [
        ("deviceclass", "gpu", "device.driver == 'dra.example.com'"),
        ("resourceslice", "board", "gpu-0"),
        ("resourceclaim", "mine", "ExactCount"),
        ("resourceclaimtemplate", "each", "ExactCount"),
    ] {
        let described = kubectl.ok(&["describe", kind, name]);
        assert!(described.contains(printed), "{described}");
        kubectl.ok(&["delete", kind, name]);
    }
    let explained = kubectl.ok(&["explain", "resourceclaim.spec.devices.requests.exactly"]);
    assert!(explained.contains("deviceClassName"), "{explained}");
}

/// kubectl.md 10.5
fn local_groups_are_available(kubectl: &Kubectl) {
    let listed = kubectl.ok(&["get", "apiservices", "--no-headers"]);
    let rows: Vec<Vec<&str>> = listed
        .lines()
        .map(|line| line.split_whitespace().take(3).collect())
        .collect();
    for name in [
        "v1.",
        "v1.apps",
        "v1.batch",
        "v1.admissionregistration.k8s.io",
    ] {
        assert!(rows.contains(&vec![name, "Local", "True"]), "{listed}");
    }
    let waited = kubectl.ok(&["wait", "--for=condition=Available", "apiservice/v1.apps"]);
    assert!(waited.ends_with("condition met\n"), "{waited}");
}

/// kubectl.md 10.5: a policy refuses a request with its own message.
fn policies(kubectl: &Kubectl) {
    let objects = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: few}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [deployments]}
  validations:
  - expression: object.spec.replicas <= 2
    message: no more than two
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: few}
spec:
  policyName: few
  validationActions: [Deny]
  matchResources:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: policies}}
";
    kubectl.apply(objects);
    let create = |replicas: &str| {
        let image = "--image=mainstay/hello";
        kubectl.run(&["create", "deployment", "web", image, replicas])
    };
    let refused = create("--replicas=3");
    let why = "ValidatingAdmissionPolicy 'few' with binding 'few' denied request: no more than two";
    assert!(refused.stderr.contains(why), "{refused:?}");
    assert_eq!(create("--replicas=0").code, 0);
    kubectl.ok(&["set", "env", "deployment/web", "A=b"]);
    let patch = r#"{"spec":{"replicas":5}}"#;
    let patched = kubectl.fails(&["patch", "deployment", "web", "-p", patch]);
    assert!(patched.contains(why), "{patched}");
}

/// kubectl.md 10.5: reviews, which get a response and are not stored.
fn reviews(kubectl: &Kubectl) {
    let status_of = |kind: &str, group: &str, spec: &str| {
        let spec = match spec {
            "" => String::new(),
            spec => format!(", spec: {spec}"),
        };
        let review = format!("{{apiVersion: {group}/v1, kind: {kind}{spec}}}");
        let response = kubectl.ok_with_input(&["create", "-o", "json", "-f", "-"], &review);
        let response: Value = serde_json::from_str(&response).expect("JSON");
        response["status"].clone()
    };
    let authorization = "authorization.k8s.io";
    let pods = "{verb: get, resource: pods, namespace: default}";
    let attributes = format!("{{resourceAttributes: {pods}}}");
    let jane = format!("{{user: jane, resourceAttributes: {pods}}}");
    assert_eq!(
        status_of("SelfSubjectAccessReview", authorization, &attributes)["allowed"],
        true
    );
    assert_eq!(
        status_of("SubjectAccessReview", authorization, &jane)["allowed"],
        false
    );
    assert_eq!(
        status_of("LocalSubjectAccessReview", authorization, &jane)["allowed"],
        false
    );
    let rules = status_of(
        "SelfSubjectRulesReview",
        authorization,
        "{namespace: default}",
    );
    assert!(rules["resourceRules"].is_array(), "{rules}");
    let authentication = "authentication.k8s.io";
    let me = status_of("SelfSubjectReview", authentication, "");
    assert_eq!(me["userInfo"]["username"], "mainstay-admin");
    kubectl.ok(&["create", "serviceaccount", "asked"]);
    let token = kubectl.ok(&["create", "token", "asked"]);
    let token = format!("{{token: {}}}", token.trim());
    let token_review = status_of("TokenReview", authentication, &token);
    let name = "system:serviceaccount:default:asked";
    assert_eq!(
        (
            &token_review["authenticated"],
            &token_review["user"]["username"]
        ),
        (&true.into(), &name.into())
    );
}

/// findings C51: a service account whose requests a flow schema rejects, as an administrator would configure it.
fn flows(kubectl: &Kubectl) {
    let levels = kubectl.ok(&["get", "prioritylevelconfigurations", "--no-headers"]);
    let low = levels
        .lines()
        .find(|line| line.starts_with("workload-low "));
    let low: Vec<&str> = low.expect(&levels).split_whitespace().collect();
    assert_eq!(low[1..6], ["Limited", "100", "128", "6", "50"], "{levels}");
    let bot = kubectl.in_new_namespace("flows");
    bot.ok(&["create", "serviceaccount", "bot"]);
    let token = bot.ok(&["create", "token", "bot", "--duration=10m"]);
    let request = ["get", "--raw", "/api", "--request-timeout=60s"];
    kubectl.with_token(token.trim()).ok(&request);
    let objects = "
{apiVersion: flowcontrol.apiserver.k8s.io/v1, kind: PriorityLevelConfiguration,
  metadata: {name: none}, spec: {type: Limited, limited: {nominalConcurrencyShares: 0,
    borrowingLimitPercent: 0, limitResponse: {type: Reject}}}}
---
{apiVersion: flowcontrol.apiserver.k8s.io/v1, kind: FlowSchema, metadata: {name: no-bots},
  spec: {priorityLevelConfiguration: {name: none}, matchingPrecedence: 100,
    rules: [{subjects: [{kind: ServiceAccount, serviceAccount: {namespace: flows, name: '*'}}],
      nonResourceRules: [{verbs: ['*'], nonResourceURLs: ['*']}]}]}}
";
    kubectl.ok_with_input(&["create", "-f", "-"], objects);
    let refused = kubectl.with_token(token.trim()).run(&request);
    assert_ne!(refused.code, 0, "{refused:?}");
    let text = &refused.stderr;
    assert!(
        text.contains("too many requests") || text.contains("Too many requests"),
        "{refused:?}"
    );
    let described = kubectl.ok(&["describe", "flowschema", "no-bots"]);
    for part in ["Matching Precedence:", "Dangling", "flows"] {
        assert!(described.contains(part), "{described}");
    }
    let schemas = kubectl.ok(&["get", "flowschemas"]);
    assert!(schemas.contains("MATCHINGPRECEDENCE"), "{schemas}");
    kubectl.ok(&["delete", "flowschema", "no-bots"]);
    kubectl.with_token(token.trim()).ok(&request);
    kubectl.ok(&["delete", "prioritylevelconfiguration", "none"]);
}
