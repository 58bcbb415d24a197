//! An explanation as text for users and as JSON for programs.

use jiff::Timestamp;
use json_tree::{Map, Value, json};
use object_model::duration::human;

use super::explanation::{CauseChain, Explanation, Finding, Log, Object, WaitState};

impl Explanation {
    /// Text for users: the object, then each chain, indented link by link, with its remedy.
    pub fn text(&self, now: Timestamp) -> String {
        self.lines(self.object.short(), now)
    }

    /// The explanation as an item of a list, with the namespace.
    pub(super) fn block(&self, now: Timestamp) -> String {
        let object = self.object.short();
        let object = match &self.object.namespace {
            Some(namespace) => format!("{object} in namespace {namespace}"),
            None => object,
        };
        self.lines(object, now)
    }

    fn lines(&self, object: String, now: Timestamp) -> String {
        let mut lines = vec![match self.state() {
            WaitState::Fine => format!("{object}: nothing is waiting ({})", self.summary),
            WaitState::Waiting => format!("{object} is waiting ({})", self.summary),
        }];
        for chain in &self.chains {
            chain_lines(chain, &self.object, now, &mut lines);
        }
        lines.extend(self.notes.iter().map(|note| format!("Note: {note}")));
        lines.join("\n") + "\n"
    }

    /// The explanation as the JSON output of `mainstay why`.
    pub fn json(&self) -> Value {
        let chains: Vec<Value> = self.chains.iter().map(chain_value).collect();
        json!({
            "object": object_value(&self.object),
            "state": self.state().as_str(),
            "summary": self.summary,
            "chains": chains,
            "notes": self.notes,
        })
    }
}

fn chain_lines(chain: &CauseChain, target: &Object, now: Timestamp, lines: &mut Vec<String>) {
    let mut before = Some(target);
    for (depth, link) in chain.links.iter().enumerate() {
        let indent = "  ".repeat(depth + 1);
        let arrow = if depth == 0 { "" } else { "← " };
        // The object is named only where it differs from that of the link before.
        let object = match before {
            Some(before) if *before == link.object => String::new(),
            _ => format!("{}: ", link.object.short()),
        };
        before = Some(&link.object);
        lines.push(format!(
            "{indent}{arrow}{object}{}{}",
            link.message,
            times(link, now)
        ));
        if let Log::Read(log) = &link.log {
            lines.extend(log.iter().map(|line| format!("{indent}    | {line}")));
        }
    }
    if !chain.likewise.is_empty() {
        lines.push(format!("  the same: {}", chain.likewise.join(", ")));
    }
    lines.push(format!("  To unblock: {}", chain.remedy.text));
    let commands = chain.remedy.commands.iter();
    lines.extend(commands.map(|command| format!("    {command}")));
}

/// ` (for 2m)`, ` (12 times, last 4s ago)`
fn times(link: &Finding, now: Timestamp) -> String {
    let ago = |then: Timestamp| human((now.as_second() - then.as_second()).max(0));
    match (&link.series, link.since) {
        (Some(series), _) if series.count > 1 => {
            format!(" ({} times, last {} ago)", series.count, ago(series.last))
        }
        (Some(series), _) => format!(" ({} ago)", ago(series.last)),
        (None, Some(since)) => format!(" (for {})", ago(since)),
        (None, None) => String::new(),
    }
}

fn object_value(object: &Object) -> Value {
    let mut value = Map::new();
    value.insert("kind".to_owned(), object.kind.as_ref().into());
    if let Some(namespace) = &object.namespace {
        value.insert("namespace".to_owned(), namespace.as_str().into());
    }
    value.insert("name".to_owned(), object.name.as_str().into());
    Value::Object(value)
}

fn link_value(link: &Finding) -> Value {
    let mut value = json!({
        "object": object_value(&link.object),
        "reason": link.reason,
        "message": link.message,
    });
    if let Some(container) = &link.container {
        value["container"] = container.as_str().into();
    }
    if let Some(since) = link.since {
        value["since"] = since.to_string().into();
    }
    if let Some(series) = &link.series {
        value["count"] = series.count.into();
        value["lastSeen"] = series.last.to_string().into();
    }
    if let Log::Read(lines) = &link.log {
        value["log"] = lines.clone().into();
    }
    value
}

fn chain_value(chain: &CauseChain) -> Value {
    let links: Vec<Value> = chain.links.iter().map(link_value).collect();
    json!({
        "links": links,
        "remedy": chain.remedy.text,
        "commands": chain.remedy.commands,
        "likewise": chain.likewise,
    })
}
