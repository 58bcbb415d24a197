//! A table of stuck situations, and the walk through it: make all of them, ask about each, type the
//! remedy as it is printed, and see that nothing waits any more.
//!
//! Each situation is in a namespace of its own, which has its name. In all texts `NAMESPACE` stands
//! for that, `DATA` for the data directory, `MAINSTAY` for the program.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use end_to_end::{Instance, Shell, binary};
use serde_json::Value;

use super::run;
use super::web::Web;

/// Situations that are looked at at the same time.
const AT_ONCE: usize = 6;
/// How long the cause may take to show, and what was stuck to get going.
const PATIENCE: Duration = Duration::from_secs(480);

/// Something that waits, and what is to be said of it.
pub struct Situation {
    /// The name, a namespace's, which is also in the table of `docs/why.md`.
    pub name: &'static str,
    /// The applied objects.
    pub manifest: &'static str,
    /// Further applied objects.
    pub web: Option<Web>,
    /// Lines that are typed after that.
    pub before: &'static [&'static str],
    /// A line that is typed right before the question: the state after it lasts for seconds only.
    pub just_before: Option<&'static str>,
    /// The object of the question: `sts/web`.
    pub asked: &'static str,
    /// Parts that the answer has to have.
    pub cause: &'static [&'static str],
    pub remedy: Remedy,
    /// The state after the remedy.
    pub end: End,
}

/// The remedy of a situation.
pub enum Remedy {
    /// The commands of the answer, as they are.
    Typed,
    /// The commands of the answer, with words of it that are filled in.
    Filled(&'static [(&'static str, &'static str)]),
    /// Lines that the answer describes, but cannot know.
    Described(&'static [&'static str]),
    /// Nothing needs to be done.
    Patience,
    /// The command at the end of a note: what is noted is as somebody wants it.
    Noted,
}

/// The state of the object afterwards.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Nothing waits.
    Fine,
    Gone,
    /// It was fine all along, and is without the note by now.
    Unnoted,
}

/// The defaults of situations.
pub const USUAL: Situation = Situation {
    name: "",
    manifest: "",
    web: None,
    before: &[],
    just_before: None,
    asked: "pod/web",
    cause: &[],
    remedy: Remedy::Typed,
    end: End::Fine,
};

/// Makes all situations on the instance at once, then resolves them.
#[track_caller]
pub fn resolve(instance: &Instance, situations: &[Situation]) {
    resolve_with(instance, &[], situations);
}

/// As [`resolve`], with further placeholders in the texts of the situations.
#[track_caller]
pub fn resolve_with(instance: &Instance, words: &[(&str, String)], situations: &[Situation]) {
    let data = instance.data().display().to_string();
    let program = binary().display().to_string();
    let own = [("DATA", data), ("MAINSTAY", program)];
    let words: Vec<(&str, String)> = words.iter().cloned().chain(own).collect();
    let walks = situations.iter();
    let walks: Vec<Walk<'_>> = walks.map(|it| Walk::of(instance, &words, it)).collect();
    let made = in_parallel(&walks, Walk::make);
    let resolved = in_parallel(&walks, Walk::resolve);
    let failures: Vec<String> = made.into_iter().chain(resolved).collect();
    let (failed, all) = (failures.len(), situations.len());
    assert!(
        failures.is_empty(),
        "{failed} of {all} situations:\n\n{}",
        failures.join("\n\n")
    );
}

/// Runs `step` for all, some at once; returns what failed.
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
                    if let Err(seen) = step(walk) {
                        let name = walk.situation.name;
                        let mut all = failures.lock().unwrap_or_else(PoisonError::into_inner);
                        all.push(format!("--- {name}: {seen}"));
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

/// The answer of `mainstay why`.
enum Answer {
    /// It has one.
    Given { text: String, json: Value },
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

    fn placed(&self, text: &str) -> String {
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
        let output = kubectl.run_with_input(&apply, &self.placed(&all));
        output.success().map_err(|output| format!("{output:#?}"))?;
        let mut lines = self.situation.before.iter();
        lines.try_for_each(|line| self.type_line(&self.placed(line)))
    }

    fn type_line(&self, line: &str) -> Result<(), String> {
        let output = self.shell.run(line);
        let failed = |output| format!("{line}\n{output:#?}");
        output.success().map(drop).map_err(failed)
    }

    fn ask(&self) -> Answer {
        let (name, asked) = (self.situation.name, self.placed(self.situation.asked));
        let asked = asked.as_str();
        let data = self.instance.data();
        let plain = run(&[asked, "-n", name], &data);
        let json = run(&[asked, "-n", name, "-o", "json"], &data);
        let errors = String::from_utf8_lossy(&json.stderr).into_owned();
        match serde_json::from_slice(&json.stdout) {
            Ok(json) => Answer::Given {
                text: String::from_utf8_lossy(&plain.stdout).into_owned(),
                json,
            },
            Err(_) => Answer::NotFound(errors),
        }
    }

    fn resolve(&self) -> Result<(), String> {
        if let Some(line) = self.situation.just_before {
            self.type_line(&self.placed(line))?;
        }
        let (text, commands) = self.wait("the cause", |answer| self.cause(answer))?;
        for line in self.lines(commands) {
            let typed = self.type_line(&line);
            typed.map_err(|error| format!("{text}\n{error}"))?;
        }
        let ended = self.wait("its end", |answer| self.has_ended(answer));
        ended.map_err(|error| format!("{text}\nand then {error}"))
    }

    /// The answer and its commands, if it has what it should have.
    fn cause(&self, answer: &Answer) -> Option<(String, Vec<String>)> {
        let Answer::Given { text, json } = answer else {
            return None;
        };
        let mut parts = self.situation.cause.iter();
        let state = match self.situation.end {
            End::Unnoted => "Fine",
            End::Fine | End::Gone => "Waiting",
        };
        if json["state"] != state || !parts.all(|part| text.contains(&self.placed(part))) {
            return None;
        }
        let commands = json["chains"].as_array().into_iter().flatten();
        let commands = commands.flat_map(|chain| chain["commands"].as_array());
        let commands = commands.flatten().filter_map(Value::as_str);
        let mut commands: Vec<String> = commands.map(str::to_owned).collect();
        if let Remedy::Noted = self.situation.remedy {
            let notes = json["notes"].as_array().into_iter().flatten();
            let notes = notes.filter_map(Value::as_str);
            let ends = notes.filter_map(|note| note.split_once(": kubectl "));
            commands.extend(ends.map(|(_, command)| format!("kubectl {command}")));
        }
        let wanted = !matches!(
            self.situation.remedy,
            Remedy::Described(_) | Remedy::Patience
        );
        (!wanted || !commands.is_empty()).then(|| (text.clone(), commands))
    }

    fn lines(&self, commands: Vec<String>) -> Vec<String> {
        match self.situation.remedy {
            Remedy::Typed | Remedy::Noted => commands,
            Remedy::Filled(words) => {
                let fill = |line: String| {
                    let words = words.iter();
                    words.fold(line, |line, (word, by)| {
                        line.replace(word, &self.placed(by))
                    })
                };
                commands.into_iter().map(fill).collect()
            }
            Remedy::Described(lines) => lines.iter().map(|line| self.placed(line)).collect(),
            Remedy::Patience => Vec::new(),
        }
    }

    fn has_ended(&self, answer: &Answer) -> Option<()> {
        let ended = match answer {
            Answer::Given { text, json } => match self.situation.end {
                End::Fine => json["state"] == "Fine",
                End::Gone => false,
                End::Unnoted => {
                    let mut parts = self.situation.cause.iter();
                    !parts.any(|part| text.contains(&self.placed(part)))
                }
            },
            Answer::NotFound(error) => {
                self.situation.end == End::Gone && error.contains("not found")
            }
        };
        ended.then_some(())
    }

    /// Asks until the answer will do.
    fn wait<T>(
        &self,
        what: &str,
        mut found: impl FnMut(&Answer) -> Option<T>,
    ) -> Result<T, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.ask();
            if let Some(found) = found(&answer) {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                let seen = match answer {
                    Answer::Given { text, .. } => text,
                    Answer::NotFound(error) => error,
                };
                return Err(format!("waited for {what}; the last answer:\n{seen}"));
            }
            sleep(Duration::from_millis(500));
        }
    }
}
