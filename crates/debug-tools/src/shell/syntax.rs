//! The syntax tree of a script.

use std::sync::Arc;

/// Commands in sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script(pub Vec<ListItem>);

/// A chain of pipelines, and whether it runs in the background.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListItem {
    pub chain: Chain,
    /// Whether the shell does not wait for the chain (`&`).
    pub in_background: bool,
}

/// Pipelines with `&&` and `||` between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub first: Pipeline,
    /// The further pipelines, each with the condition on the previous status.
    pub rest: Vec<(Join, Pipeline)>,
}

/// The condition for running the next pipeline of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// `&&`
    AfterSuccess,
    /// `||`
    AfterFailure,
}

/// Commands, each of which reads the output of the previous one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pipeline {
    /// Whether success and failure are exchanged (`!`).
    pub is_negated: bool,
    pub commands: Vec<Command>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A program, a builtin or a function with its arguments; or assignments alone.
    Simple {
        /// `NAME=value` before the words.
        assignments: Vec<(String, Word)>,
        /// The name and the arguments.
        words: Vec<Word>,
        /// In the order of the source.
        redirects: Vec<Redirect>,
    },
    /// A compound command.
    Compound {
        body: Compound,
        /// Redirections of the whole compound command.
        redirects: Vec<Redirect>,
    },
    /// `name() body`
    Function { name: String, body: Arc<Command> },
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
        /// Condition and commands of `if` and of each `elif`.
        branches: Vec<(Script, Script)>,
        /// The `else` branch.
        otherwise: Script,
    },
    /// `while …; do …; done`
    Loop {
        /// Whether the loop is `until`: it runs while the condition fails.
        until: bool,
        condition: Script,
        body: Script,
    },
    /// `for name in …; do …; done`
    For {
        name: String,
        /// `None` without `in`: the loop uses the arguments.
        values: Option<Vec<Word>>,
        body: Script,
    },
    /// `case word in pattern) …;; esac`
    Case {
        /// The compared word.
        word: Word,
        /// Patterns and commands.
        branches: Vec<(Vec<Word>, Script)>,
    },
}

/// A redirection of a file descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    pub descriptor: u32,
    /// The kind of redirection.
    pub kind: RedirectKind,
    /// The file's name, the other descriptor, or the text.
    pub target: Word,
}

/// The kind of a redirection.
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

/// A sequence of parts without space between them.
pub type Word = Vec<Part>;

/// A part of a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Literal text.
    Text {
        text: String,
        /// Whether its characters have no special meaning.
        is_quoted: bool,
    },
    /// An expansion.
    Computed {
        value: Computed,
        /// Whether the result is not split into words.
        is_quoted: bool,
    },
}

/// An expansion of a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Computed {
    /// `$name`, `${name}` and the like.
    Variable {
        /// The name, a number, or a special character such as `?`.
        name: String,
        /// The operation on the value.
        change: ParameterExpansion,
    },
    /// `$(…)`
    Output(Script),
    /// `$((…))`
    Arithmetic(Word),
    /// `~`
    Home,
}

/// The operation on the value of a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParameterExpansion {
    None,
    /// `${#name}`
    Length,
    /// `${name:-word}` and the like.
    Default {
        /// The action without a value.
        action: DefaultAction,
        /// Whether an empty value counts as absent (`:`).
        also_empty: bool,
        word: Word,
    },
    /// `${name#pattern}` and the like.
    Cut {
        /// Whether the end is removed (`%`); otherwise the start (`#`).
        at_end: bool,
        /// Whether the longest match is removed.
        longest: bool,
        pattern: Word,
    },
}

/// The action for a variable without a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    /// `-`
    Use,
    /// `=`
    Assign,
    /// `+`: the word is used if there is a value.
    UseInstead,
    /// `?`
    Fail,
}
