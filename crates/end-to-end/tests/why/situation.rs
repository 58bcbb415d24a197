//! A table of stuck situations, and the test of them: create all situations, run `mainstay why` for each, type the
//! remedy as it is printed, and check that the object does not wait any more.
//!
//! Each situation is in a separate namespace with its name. In all texts `NAMESPACE` is a placeholder for the
//! namespace, `DATA` for the data directory, `MAINSTAY` for the program.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use end_to_end::{Instance, Shell, binary};
use serde_json::Value;

use super::run;
use super::web::Web;

/// Number of situations that are checked concurrently.
const AT_ONCE: usize = 6;
/// Maximum time until the cause is reported, and until the object progresses after the remedy.
const PATIENCE: Duration = Duration::from_secs(480);

/// A waiting object, and the expected explanation.
pub struct Situation {
    /// The name of the situation and of its namespace, which is also in the table of `docs/why.md`.
    pub name: &'static str,
    /// The applied objects.
    pub manifest: &'static str,
    /// Further applied objects.
    pub web: Option<Web>,
    /// Lines that are typed after the creation of the objects.
    pub before: &'static [&'static str],
    /// A line that is typed right before the call of `mainstay why`, because the state after it lasts only for seconds.
    pub just_before: Option<&'static str>,
    /// The object that is explained: `sts/web`.
    pub object: &'static str,
    /// Texts that the explanation must contain.
    pub cause: &'static [&'static str],
    pub remedy: Remedy,
    /// The state after the remedy.
    pub outcome: Outcome,
}

/// The remedy of a situation.
pub enum Remedy {
    /// The commands of the explanation, unchanged.
    Typed,
    /// The commands of the explanation, in which these words are replaced.
    Filled(&'static [(&'static str, &'static str)]),
    /// Lines that the explanation describes, but cannot contain literally.
    Described(&'static [&'static str]),
    /// No action is necessary.
    Patience,
    /// The command at the end of a note: the noted state is intended by a user.
    Noted,
}

/// The state of the object afterwards.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The object does not wait.
    Fine,
    Deleted,
    /// The object never waited, and its note has disappeared.
    Unnoted,
}

/// The defaults of situations.
pub const USUAL: Situation = Situation {
    name: "",
    manifest: "",
    web: None,
    before: &[],
    just_before: None,
    object: "pod/web",
    cause: &[],
    remedy: Remedy::Typed,
    outcome: Outcome::Fine,
};

/// Creates all situations on the instance at once, then resolves them.
#[track_caller]
pub fn resolve(instance: &Instance, situations: &[Situation]) {
    resolve_with(instance, &[], situations);
}

/// As [`resolve`], with further placeholders in the texts of the situations.
#[track_caller]
pub fn resolve_with(instance: &Instance, words: &[(&str, String)], situations: &[Situation]) {
    let data = instance.data().display().to_string();
    let program = binary().display().to_string();
    let standard = [("DATA", data), ("MAINSTAY", program)];
    let words: Vec<(&str, String)> = words.iter().cloned().chain(standard).collect();
    let walks = situations.iter();
    let walks: Vec<Walk<'_>> = walks
        .map(|situation| Walk::of(instance, &words, situation))
        .collect();
    let created = in_parallel(&walks, Walk::make);
    let resolved = in_parallel(&walks, Walk::resolve);
    let failures: Vec<String> = created.into_iter().chain(resolved).collect();
    let (failed, all) = (failures.len(), situations.len());
    assert!(
        failures.is_empty(),
        "{failed} of {all} situations:\n\n{}",
        failures.join("\n\n")
    );
}

/// Runs `step` for all situations, some concurrently; returns the failures.
fn in_parallel<'w, 'i>(
    walks: &'w [Walk<'i>],
    step: impl Fn(&Walk<'i>) -> Result<(), String> + Sync,
) -> Vec<String> {
    let left: Mutex<VecDeque<&'w Walk<'i>>> = Mutex::new(walks.iter().collect());
    let failures = Mutex::new(Vec::new());
    let next = || {
        let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
        left.pop_front()
    };
    scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(walk) = next() {
                    if let Err(failure) = step(walk) {
                        let name = walk.situation.name;
                        let mut all = failures.lock().unwrap_or_else(PoisonError::into_inner);
                        all.push(format!("--- {name}: {failure}"));
                    }
                }
            });
        }
    });
    failures
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
}

/// One situation on an instance.
struct Walk<'i> {
    instance: &'i Instance,
    words: &'i [(&'i str, String)],
    situation: &'i Situation,
    shell: Shell,
}

/// The response of `mainstay why`.
enum Response {
    /// The explanation as text and as JSON.
    Explained { text: String, json: Value },
    /// There is no such object.
    NotFound(String),
}

impl<'i> Walk<'i> {
    fn of(
        instance: &'i Instance,
        words: &'i [(&'i str, String)],
        situation: &'i Situation,
    ) -> Self {
        Self {
            instance,
            words,
            situation,
            shell: Shell::new(instance, instance.data()),
        }
    }

    fn expanded(&self, text: &str) -> String {
        let text = text.replace("NAMESPACE", self.situation.name);
        let words = self.words.iter();
        words.fold(text, |text, (word, by)| text.replace(word, by))
    }

    fn make(&self) -> Result<(), String> {
        let name = self.situation.name;
        self.type_line(&format!("kubectl create namespace {name}"))?;
        let kubectl = self.instance.kubectl();
        let apply = ["-n", name, "apply", "-f", "-"];
        let web = self.situation.web.as_ref().map(Web::manifest);
        let web = web.unwrap_or_default();
        let all = format!("{}---\n{web}", self.situation.manifest);
        let output = kubectl.run_with_input(&apply, &self.expanded(&all));
        output.success().map_err(|output| format!("{output:#?}"))?;
        let mut lines = self.situation.before.iter();
        lines.try_for_each(|line| self.type_line(&self.expanded(line)))
    }

    fn type_line(&self, line: &str) -> Result<(), String> {
        let output = self.shell.run(line);
        let failed = |output| format!("{line}\n{output:#?}");
        output.success().map(drop).map_err(failed)
    }

    fn response(&self) -> Response {
        let (name, object) = (self.situation.name, self.expanded(self.situation.object));
        let object = object.as_str();
        let data = self.instance.data();
        let plain = run(&[object, "-n", name], &data);
        let json = run(&[object, "-n", name, "-o", "json"], &data);
        let errors = String::from_utf8_lossy(&json.stderr).into_owned();
        match serde_json::from_slice(&json.stdout) {
            Ok(json) => Response::Explained {
                text: String::from_utf8_lossy(&plain.stdout).into_owned(),
                json,
            },
            Err(_) => Response::NotFound(errors),
        }
    }

    fn resolve(&self) -> Result<(), String> {
        if let Some(line) = self.situation.just_before {
            self.type_line(&self.expanded(line))?;
        }
        let (text, commands) = self.wait("the cause", |response| self.cause(response))?;
        for line in self.lines(commands) {
            let typed = self.type_line(&line);
            typed.map_err(|error| format!("{text}\n{error}"))?;
        }
        let outcome = self.wait("the outcome", |response| self.has_outcome(response));
        outcome.map_err(|error| format!("{text}\nand then {error}"))
    }

    /// The explanation and its commands, if the explanation contains the expected texts.
    fn cause(&self, response: &Response) -> Option<(String, Vec<String>)> {
        let Response::Explained { text, json } = response else {
            return None;
        };
        let mut parts = self.situation.cause.iter();
        let state = match self.situation.outcome {
            Outcome::Unnoted => "Fine",
            Outcome::Fine | Outcome::Deleted => "Waiting",
        };
        if json["state"] != state || !parts.all(|part| text.contains(&self.expanded(part))) {
            return None;
        }
        let commands = json["chains"].as_array().into_iter().flatten();
        let commands = commands.flat_map(|chain| chain["commands"].as_array());
        let commands = commands.flatten().filter_map(Value::as_str);
        let mut commands: Vec<String> = commands.map(str::to_owned).collect();
        if let Remedy::Noted = self.situation.remedy {
            let notes = json["notes"].as_array().into_iter().flatten();
            let notes = notes.filter_map(Value::as_str);
            let noted = notes.filter_map(|note| note.split_once(": kubectl "));
            commands.extend(noted.map(|(_, command)| format!("kubectl {command}")));
        }
        let is_complete = !matches!(
            self.situation.remedy,
            Remedy::Described(_) | Remedy::Patience
        );
        (!is_complete || !commands.is_empty()).then(|| (text.clone(), commands))
    }

    fn lines(&self, commands: Vec<String>) -> Vec<String> {
        match self.situation.remedy {
            Remedy::Typed | Remedy::Noted => commands,
            Remedy::Filled(words) => {
                let fill = |line: String| {
                    let words = words.iter();
                    words.fold(line, |line, (word, by)| {
                        line.replace(word, &self.expanded(by))
                    })
                };
                commands.into_iter().map(fill).collect()
            }
            Remedy::Described(lines) => lines.iter().map(|line| self.expanded(line)).collect(),
            Remedy::Patience => Vec::new(),
        }
    }

    fn has_outcome(&self, response: &Response) -> Option<()> {
        let has_outcome = match response {
            Response::Explained { text, json } => match self.situation.outcome {
                Outcome::Fine => json["state"] == "Fine",
                Outcome::Deleted => false,
                Outcome::Unnoted => {
                    let mut parts = self.situation.cause.iter();
                    !parts.any(|part| text.contains(&self.expanded(part)))
                }
            },
            Response::NotFound(error) => {
                self.situation.outcome == Outcome::Deleted && error.contains("not found")
            }
        };
        has_outcome.then_some(())
    }

    /// Repeats `mainstay why` until the response is as expected.
    fn wait<T>(
        &self,
        what: &str,
        mut expected: impl FnMut(&Response) -> Option<T>,
    ) -> Result<T, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let response = self.response();
            if let Some(expected) = expected(&response) {
                return Ok(expected);
            }
            if Instant::now() >= deadline {
                let printed = match response {
                    Response::Explained { text, .. } => text,
                    Response::NotFound(error) => error,
                };
                return Err(format!("waited for {what}; the last response:\n{printed}"));
            }
            sleep(Duration::from_millis(500));
        }
    }
}
