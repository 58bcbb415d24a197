//! Errors with the step that failed, as a command prints them: `write /backup: Permission denied`.

use std::error::Error;
use std::fmt::{self, Display, Formatter};

type Cause = Box<dyn Error + Send + Sync>;

/// An error with the step that failed. Its text is the step; the error is its source.
#[derive(Debug)]
pub struct FailedStep {
    step: String,
    cause: Cause,
}

impl FailedStep {
    /// The step names the path of the file, the URL or the object.
    pub fn new(step: impl Display, cause: impl Into<Cause>) -> Self {
        Self {
            step: step.to_string(),
            cause: cause.into(),
        }
    }
}

impl Display for FailedStep {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.step)
    }
}

impl Error for FailedStep {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.cause)
    }
}

/// Adds the failed step to an error.
pub trait StepContext<T> {
    fn context(self, step: &str) -> Result<T, FailedStep>;

    fn with_context<S: Display>(self, step: impl FnOnce() -> S) -> Result<T, FailedStep>;
}

impl<T, E: Into<Cause>> StepContext<T> for Result<T, E> {
    fn context(self, step: &str) -> Result<T, FailedStep> {
        self.with_context(|| step)
    }

    fn with_context<S: Display>(self, step: impl FnOnce() -> S) -> Result<T, FailedStep> {
        self.map_err(|error| FailedStep::new(step(), error))
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn the_error_is_the_source_of_the_step() {
        let read: Result<(), _> = Err(io::Error::from(io::ErrorKind::NotFound));
        let failed = read
            .with_context(|| "read /a")
            .context("start")
            .unwrap_err();
        assert_eq!(failed.to_string(), "start");
        let source = failed.source().unwrap();
        assert_eq!(source.to_string(), "read /a");
        let cause = source
            .source()
            .and_then(|cause| cause.downcast_ref::<io::Error>());
        assert_eq!(cause.map(io::Error::kind), Some(io::ErrorKind::NotFound));
    }
}
