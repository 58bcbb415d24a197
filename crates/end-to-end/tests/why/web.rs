//! The workload `web` of most situations, built from default values and the fields of the situation.

/// A pod, or an object that creates pods; the texts are entries of YAML flow mappings.
pub struct Web {
    pub kind: Kind,
    /// The number of pods that the object creates.
    pub replicas: u32,
    /// Further fields of its `spec`.
    pub spec: &'static str,
    /// Further fields of the pods' `spec`.
    pub pod: &'static str,
    /// The image of the container `main`.
    pub image: &'static str,
    pub command: &'static str,
    /// Further fields.
    pub container: &'static str,
}

/// The kinds of workloads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Pod,
    StatefulSet,
    Deployment,
}

/// A pod that runs for a long time.
pub const POD: Web = Web {
    kind: Kind::Pod,
    replicas: 1,
    spec: "",
    pod: "",
    image: "busybox:1",
    command: "[sleep, '1000']",
    container: "",
};

/// A set of one such pod.
pub const SET: Web = Web {
    kind: Kind::StatefulSet,
    ..POD
};

/// A Deployment of one such pod.
pub const DEPLOYMENT: Web = Web {
    kind: Kind::Deployment,
    ..POD
};

impl Web {
    pub fn manifest(&self) -> String {
        let Self { image, command, .. } = self;
        let container = entries(
            &format!("name: main, image: '{image}', command: {command}"),
            self.container,
        );
        let pod = format!("terminationGracePeriodSeconds: 0, containers: [{{{container}}}]");
        let pod = entries(&pod, self.pod);
        let head = |api: &str, kind: &str| {
            format!("apiVersion: {api}, kind: {kind}, metadata: {{name: web}}")
        };
        let kind = match self.kind {
            Kind::Pod => return format!("{{{}, spec: {{{pod}}}}}\n", head("v1", "Pod")),
            Kind::StatefulSet => "StatefulSet",
            Kind::Deployment => "Deployment",
        };
        let template = format!("{{metadata: {{labels: {{app: web}}}}, spec: {{{pod}}}}}");
        let fields = format!(
            "replicas: {}, selector: {{matchLabels: {{app: web}}}}, template: {template}",
            self.replicas
        );
        let fields = entries(&fields, self.spec);
        format!("{{{}, spec: {{{fields}}}}}\n", head("apps/v1", kind))
    }
}

fn entries(usual: &str, more: &str) -> String {
    match more {
        "" => usual.to_owned(),
        more => format!("{usual}, {more}"),
    }
}
