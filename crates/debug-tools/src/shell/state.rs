//! The state of a shell: variables, functions, arguments, open files.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use super::syntax::Command;

/// The state that a subshell copies.
#[derive(Clone, Debug, Default)]
pub struct ShellState {
    variables: BTreeMap<String, Variable>,
    /// Functions by name.
    pub functions: BTreeMap<String, Arc<Command>>,
    /// `$0`
    pub name: String,
    /// `$1` and so on.
    pub arguments: Vec<String>,
    /// The working directory of the shell. The process has another one, because subshells are not processes.
    pub directory: PathBuf,
    /// `$?`
    pub status: u8,
    /// `$!`
    pub background: Option<u32>,
    /// The options of `set`.
    pub options: Options,
}

/// The options of `set`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// `-e`: end when a command fails.
    pub exits_on_error: bool,
    /// `-u`: a variable that is not set is an error.
    pub unset_is_error: bool,
    /// `-x`: print each command.
    pub traces: bool,
    /// `-f`: `*` is literal.
    pub without_patterns: bool,
}

#[derive(Clone, Debug, Default)]
struct Variable {
    /// `None` for a variable that is only exported.
    value: Option<String>,
    is_exported: bool,
}

/// The default of `IFS`.
const SEPARATORS: &str = " \t\n";

impl ShellState {
    pub fn of_process(name: &str, arguments: &[String]) -> Self {
        let mut state = Self {
            name: name.to_owned(),
            arguments: arguments.to_vec(),
            directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            ..Self::default()
        };
        for (name, value) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            state.set(&name, &value.to_string_lossy());
            state.export(&name);
        }
        if state.value("PATH").is_none() {
            state.set("PATH", "/bin:/usr/bin:/sbin:/usr/sbin");
        }
        state
    }

    pub fn value(&self, name: &str) -> Option<String> {
        match name {
            "?" => Some(self.status.to_string()),
            "#" => Some(self.arguments.len().to_string()),
            "@" | "*" => Some(self.arguments.join(" ")),
            "$" => Some(std::process::id().to_string()),
            "!" => self.background.map(|id| id.to_string()),
            "-" => Some(String::new()),
            "0" => Some(self.name.clone()),
            "PWD" => Some(self.directory.display().to_string()),
            _ => match name.parse::<usize>() {
                Ok(number) => self.arguments.get(number.checked_sub(1)?).cloned(),
                Err(_) => self.variables.get(name)?.value.clone(),
            },
        }
    }

    pub fn set(&mut self, name: &str, value: &str) {
        let variable = self.variables.entry(name.to_owned()).or_default();
        variable.value = Some(value.to_owned());
    }

    /// Sets or removes the value.
    pub fn restore(&mut self, name: &str, value: Option<String>) {
        match value {
            Some(value) => self.set(name, &value),
            None => self.unset(name),
        }
    }

    pub fn unset(&mut self, name: &str) {
        self.variables.remove(name);
    }

    /// Adds the variable to the environment of later programs.
    pub fn export(&mut self, name: &str) {
        let variable = self.variables.entry(name.to_owned()).or_default();
        variable.is_exported = true;
    }

    /// The variables with a value, sorted by name.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        let variables = self.variables.iter();
        variables.filter_map(|(name, variable)| Some((name.as_str(), variable.value.as_deref()?)))
    }

    /// The environment of programs.
    pub fn environment(&self) -> Vec<(String, String)> {
        let exported = self
            .variables
            .iter()
            .filter(|(_, variable)| variable.is_exported);
        let mut environment: Vec<(String, String)> = exported
            .filter_map(|(name, variable)| Some((name.clone(), variable.value.clone()?)))
            .collect();
        environment.push(("PWD".to_owned(), self.directory.display().to_string()));
        environment
    }

    /// The characters that separate words.
    pub fn separators(&self) -> String {
        self.value("IFS").unwrap_or_else(|| SEPARATORS.to_owned())
    }
}

/// The open files of a command, by descriptor number.
#[derive(Clone, Debug, Default)]
pub struct Files(BTreeMap<u32, Arc<OwnedFd>>);

impl Files {
    /// Standard input, output and error of this process.
    pub fn of_process() -> io::Result<Self> {
        use std::os::fd::AsFd;
        let mut files = Self::default();
        files.put(0, io::stdin().as_fd().try_clone_to_owned()?);
        files.put(1, io::stdout().as_fd().try_clone_to_owned()?);
        files.put(2, io::stderr().as_fd().try_clone_to_owned()?);
        Ok(files)
    }

    pub fn get(&self, number: u32) -> Option<&Arc<OwnedFd>> {
        self.0.get(&number)
    }

    /// Opens a file under a descriptor number.
    pub fn put(&mut self, number: u32, file: OwnedFd) {
        self.share(number, Arc::new(file));
    }

    /// Adds a descriptor number for an open file.
    pub fn share(&mut self, number: u32, file: Arc<OwnedFd>) {
        self.0.insert(number, file);
    }

    pub fn close(&mut self, number: u32) {
        self.0.remove(&number);
    }

    /// A copy of the descriptor for a new process.
    pub fn for_program(&self, number: u32) -> io::Result<Stdio> {
        match self.get(number) {
            Some(file) => Ok(Stdio::from(file.try_clone()?)),
            None => Ok(Stdio::null()),
        }
    }

    /// Writes to a descriptor; does nothing if it is closed.
    pub fn write(&self, number: u32, bytes: &[u8]) -> io::Result<()> {
        let Some(file) = self.get(number) else {
            return Ok(());
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            match rustix::io::write(file, rest) {
                Ok(length) => rest = rest.get(length..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads one byte of standard input; `None` at its end.
    pub fn read_byte(&self) -> io::Result<Option<u8>> {
        let Some(file) = self.get(0) else {
            return Ok(None);
        };
        let mut byte = [0];
        loop {
            match rustix::io::read(file, &mut byte) {
                Ok(0) => return Ok(None),
                Ok(_) => return Ok(Some(byte[0])),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
