//! The syntax tree of a script.

use std::sync::Arc;

/// Commands one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script(pub Vec<Item>);

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What runs.
    pub chain: Chain,
    /// Whether nobody waits for it (`&`).
    pub in_background: bool,
}

/// Pipelines with `&&` and `||` between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The first.
    pub first: Pipeline,
    /// The others, each with the status of what was before that it runs after.
    pub rest: Vec<(Join, Pipeline)>,
}

/// When the next pipeline of a chain runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// `&&`
    AfterSuccess,
    /// `||`
    AfterFailure,
}

/// Commands, each reading what the one before it writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pipeline {
    /// Whether success and failure are exchanged (`!`).
    pub is_negated: bool,
    /// The commands.
    pub commands: Vec<Command>,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A program, a builtin or a function with its arguments; or assignments alone.
    Simple {
        /// `NAME=value` before the words.
        assignments: Vec<(String, Word)>,
        /// The name and the arguments.
        words: Vec<Word>,
        /// In the order in which they stand.
        redirects: Vec<Redirect>,
    },
    /// What has commands inside.
    Compound {
        /// The commands.
        body: Compound,
        /// For all of them.
        redirects: Vec<Redirect>,
    },
    /// `name() body`
    Function {
        /// The name.
        name: String,
        /// What it runs.
        body: Arc<Command>,
    },
}

/// A command that has commands inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compound {
    /// `{ …; }`
    Group(Script),
    /// `( … )`
    Subshell(Script),
    /// `if …; then …; elif …; else …; fi`
    If {
        /// Condition and commands, of `if` and each `elif`.
        branches: Vec<(Script, Script)>,
        /// Of `else`.
        otherwise: Script,
    },
    /// `while …; do …; done`
    Loop {
        /// Whether it runs until the condition holds, not while it does.
        until: bool,
        /// The condition.
        condition: Script,
        /// The commands.
        body: Script,
    },
    /// `for name in …; do …; done`
    For {
        /// The variable.
        name: String,
        /// Its values; the arguments where there is no `in`.
        values: Option<Vec<Word>>,
        /// The commands.
        body: Script,
    },
    /// `case word in pattern) …;; esac`
    Case {
        /// What is compared.
        word: Word,
        /// Patterns and commands.
        branches: Vec<(Vec<Word>, Script)>,
    },
}

/// A redirection of a file descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The descriptor.
    pub descriptor: u32,
    /// Where to.
    pub kind: RedirectKind,
    /// The file's name, the other descriptor, or the text.
    pub target: Word,
}

/// How a descriptor is redirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectKind {
    /// `<`
    Read,
    /// `>`
    Write,
    /// `>>`
    Append,
    /// `<>`
    ReadWrite,
    /// `<&` and `>&`
    Duplicate,
    /// `<<`
    Text,
}

/// A word is parts without space between them.
pub type Word = Vec<Part>;

/// A part of a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text as it stands.
    Text {
        /// The text.
        text: String,
        /// Whether its characters mean nothing else.
        is_quoted: bool,
    },
    /// What has to be computed.
    Computed {
        /// What it is.
        value: Computed,
        /// Whether it stays one word.
        is_quoted: bool,
    },
}

/// What a word takes from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Computed {
    /// `$name`, `${name}` and the like.
    Variable {
        /// The name, a number or a sign.
        name: String,
        /// What is done with the value.
        change: Change,
    },
    /// `$(…)`
    Output(Script),
    /// `$((…))`
    Arithmetic(Word),
    /// `~`
    Home,
}

/// What is done with the value of a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// `${#name}`
    Length,
    /// `${name:-word}` and the like.
    Default {
        /// What happens when there is no value.
        action: DefaultAction,
        /// Whether an empty value is none (`:`).
        also_empty: bool,
        /// The word.
        word: Word,
    },
    /// `${name#pattern}` and the like.
    Cut {
        /// Whether at the end (`%`), not at the start (`#`).
        at_end: bool,
        /// Whether as much as possible.
        longest: bool,
        /// The pattern.
        pattern: Word,
    },
}

/// What happens to a variable without a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    /// `-`
    Use,
    /// `=`
    Assign,
    /// `+`: the word is for those that have a value.
    UseInstead,
    /// `?`
    Fail,
}
