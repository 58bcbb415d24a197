//! The explanation of a connection, for users and for programs.

use json_tree::{Value, json};

use super::answer::{
    ConnectionAnswer, ConnectionDecision, ConnectionVerdict, ObjectName, PolicyDecision, ServerPath,
};

/// Maximum number of servers of a Service that are described separately; more would hide the result.
const PATHS_MAX: usize = 8;

impl ConnectionVerdict {
    /// The verdict as the JSON output names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passes => "Passes",
            Self::Partly => "Partly",
            Self::Dropped => "Dropped",
            Self::Refused => "Refused",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Passes => "the connection passes",
            Self::Partly => "the connection passes to some endpoints only",
            Self::Dropped => "the connection is dropped; the client sees a timeout",
            Self::Refused => "the connection has no endpoint to go to",
        }
    }
}

impl ConnectionAnswer {
    /// Human-readable text: the result, each path with the decision at both ends, and a remedy.
    pub fn text(&self) -> String {
        let Self { port, protocol, .. } = self;
        let protocol = protocol.to_string().to_uppercase();
        let mut lines = vec![format!(
            "{} to {}/{}:{port}{} ({protocol}): {}",
            self.called(&self.client),
            self.destination.kind,
            self.destination.name,
            self.namespace_suffix(&self.destination),
            self.verdict().text()
        )];
        if let Some(address) = self.cluster_ip {
            lines.push(format!(
                "  {} has the address {address} and {} for port {port}",
                self.called(&self.destination),
                counted(self.paths.len())
            ));
        }
        // The dropped connections explain the result.
        let (passing, dropped): (Vec<&ServerPath>, Vec<&ServerPath>) =
            self.paths.iter().partition(|path| path.passes());
        let paths: Vec<&ServerPath> = dropped.iter().chain(&passing).copied().collect();
        for path in paths.iter().take(PATHS_MAX) {
            self.path_lines(path, &mut lines);
        }
        if paths.len() > PATHS_MAX {
            lines.push(format!("  {} more", paths.len() - PATHS_MAX));
        }
        if let Some(path) = dropped.first() {
            self.remedy_lines(path, &mut lines);
        }
        lines.extend(self.notes.iter().map(|note| format!("Note: {note}")));
        lines.join("\n") + "\n"
    }

    /// The name of an object; with its namespace if that differs from the client's.
    fn called(&self, object: &ObjectName) -> String {
        format!(
            "{}/{}{}",
            object.kind,
            object.name,
            self.namespace_suffix(object)
        )
    }

    fn namespace_suffix(&self, object: &ObjectName) -> String {
        match object.namespace == self.client.namespace {
            true => String::new(),
            false => format!(" in namespace {}", object.namespace),
        }
    }

    fn server(&self, path: &ServerPath) -> String {
        match &path.pod {
            Some(pod) => self.called(pod),
            None => path.server.ip.to_string(),
        }
    }

    fn path_lines(&self, path: &ServerPath, lines: &mut Vec<String>) {
        let indent = match self.destination.kind {
            "pod" => "  ",
            _ => {
                let verdict = match path.passes() {
                    true => "passes",
                    false => "dropped",
                };
                let (server, port) = (self.server(path), path.server.port);
                lines.push(format!("  {server}, port {port}: {verdict}"));
                "    "
            }
        };
        match &path.decision {
            ConnectionDecision::OwnNode => lines.push(format!(
                "{indent}policies do not apply between a pod and its own node"
            )),
            ConnectionDecision::Policies { egress, ingress } => {
                let client = self.called(&self.client);
                lines.push(format!("{indent}egress of {client}: {}", sentence(egress)));
                let server = self.server(path);
                lines.push(format!(
                    "{indent}ingress of {server}: {}",
                    sentence(ingress)
                ));
            }
        }
    }

    fn remedy_lines(&self, path: &ServerPath, lines: &mut Vec<String>) {
        let ConnectionDecision::Policies { egress, ingress } = &path.decision else {
            return;
        };
        lines.push(
            "  To unblock: add a rule to one of the policies that select the end, or another policy that \
             allows the connection"
                .to_owned(),
        );
        let of_server = path.pod.as_ref().unwrap_or(&self.destination);
        let mut commands = Vec::new();
        for (end, namespace) in [
            (egress, &self.client.namespace),
            (ingress, &of_server.namespace),
        ] {
            if let PolicyDecision::Dropped(policies) = end {
                let names = policies.iter();
                let edit = |name| format!("    kubectl edit networkpolicy {name} -n {namespace}");
                commands.extend(names.map(edit));
            }
        }
        // One policy may drop at both ends.
        commands.sort_unstable();
        commands.dedup();
        lines.extend(commands);
    }

    /// The explanation as the JSON output of `mainstay why`.
    pub fn json(&self) -> Value {
        let paths: Vec<Value> = self.paths.iter().map(path_value).collect();
        json!({
            "from": object_value(&self.client),
            "to": object_value(&self.destination),
            "port": self.port,
            "protocol": self.protocol.to_string().to_uppercase(),
            "clusterIP": self.cluster_ip,
            "verdict": self.verdict().as_str(),
            "ways": paths,
            "notes": self.notes,
        })
    }
}

fn counted(endpoints: usize) -> String {
    match endpoints {
        0 => "no endpoint".to_owned(),
        1 => "one endpoint".to_owned(),
        many => format!("{many} endpoints"),
    }
}

fn sentence(end: &PolicyDecision) -> String {
    let names = |policies: &[String]| {
        let names = policies.iter().map(|name| format!("networkpolicy/{name}"));
        names.collect::<Vec<_>>().join(", ")
    };
    match end {
        PolicyDecision::Open => "allowed, no policy selects it for this direction".to_owned(),
        PolicyDecision::Itself => "allowed, a pod always reaches itself".to_owned(),
        PolicyDecision::Allowed(policies) => format!("allowed by {}", names(policies)),
        PolicyDecision::Dropped(policies) => match policies.len() {
            1 => format!(
                "dropped, {} selects it and has no rule for this",
                names(policies)
            ),
            _ => format!(
                "dropped, {} select it and have no rule for this",
                names(policies)
            ),
        },
    }
}

fn object_value(object: &ObjectName) -> Value {
    json!({"kind": object.kind, "namespace": object.namespace, "name": object.name})
}

fn path_value(path: &ServerPath) -> Value {
    let end = |end: &PolicyDecision| {
        let (verdict, policies) = match end {
            PolicyDecision::Open => ("Open", &[][..]),
            PolicyDecision::Itself => ("Itself", &[][..]),
            PolicyDecision::Allowed(policies) => ("Allowed", policies.as_slice()),
            PolicyDecision::Dropped(policies) => ("Dropped", policies.as_slice()),
        };
        json!({"verdict": verdict, "policies": policies})
    };
    let mut value = json!({
        "address": path.server.ip,
        "port": path.server.port,
        "pod": path.pod.as_ref().map(object_value),
        "passes": path.passes(),
    });
    if let ConnectionDecision::Policies { egress, ingress } = &path.decision {
        value["egress"] = end(egress);
        value["ingress"] = end(ingress);
    }
    value
}
