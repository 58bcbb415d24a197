//! The size of a plan of pods, which decides on which thread the plan is computed ([`controller_framework::decide`]).

/// The number of pods that a plan is about: the existing or the desired pods (1 if the object has no number).
pub(crate) fn plan_size(pods: usize, desired: Option<i32>) -> usize {
    let desired = usize::try_from(desired.unwrap_or(1)).unwrap_or_default();
    pods.max(desired)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_are_wanted_count_before_they_exist() {
        assert_eq!(plan_size(0, Some(1000)), 1000);
        assert_eq!(plan_size(1000, Some(0)), 1000);
        assert_eq!(plan_size(0, None), 1);
        assert_eq!(plan_size(0, Some(-1)), 0);
    }
}
