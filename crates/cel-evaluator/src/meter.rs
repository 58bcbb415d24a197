//! The cost of an evaluation.

use crate::error::EvaluationError;

/// Maximum work of one evaluation. A step is about a nanosecond, or one byte that is allocated.
const WORK_MAX: u64 = 64 << 20;

/// The cost so far, in the units of cel-go, and the work so far. cel-go charges some operations less than they cost
/// here: it concatenates lists without copies, and does not charge the results of functions. The work limits these.
#[derive(Debug)]
pub(crate) struct Meter {
    cost: u64,
    limit: u64,
    work: u64,
}

impl Meter {
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            cost: 0,
            limit,
            work: 0,
        }
    }

    pub(crate) fn cost(&self) -> u64 {
        self.cost
    }

    /// Adds units of cost.
    ///
    /// # Errors
    /// The limit is exceeded.
    pub(crate) fn charge(&mut self, units: u64) -> Result<(), EvaluationError> {
        self.cost = self.cost.saturating_add(units);
        if self.cost > self.limit {
            return Err(EvaluationError::CostLimit);
        }
        Ok(())
    }

    /// Adds steps of work.
    ///
    /// # Errors
    /// The limit is exceeded.
    pub(crate) fn work(&mut self, steps: usize) -> Result<(), EvaluationError> {
        self.work = self.work.saturating_add(steps as u64);
        if self.work > WORK_MAX {
            self.cost = u64::MAX;
            return Err(EvaluationError::CostLimit);
        }
        Ok(())
    }
}
