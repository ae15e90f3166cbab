//! No core dumps: a dump of this process would hold keys.

use rustix::process::{Resource, Rlimit, setrlimit};

/// Sees to it that the operating system writes no core dump of this process, on Linux also that no other process of
/// the same user reads its memory (`PR_SET_DUMPABLE`): where a program collects the dumps, the limit alone does not
/// hold. What the platform does not allow is left as it is: nobody is kept from working by it.
pub fn forbid() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::debug!(%error, "core dumps could not be limited");
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
            tracing::debug!(%error, "the process could not be made undumpable");
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn nothing_is_dumped() {
        super::forbid();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
        #[cfg(target_os = "linux")]
        assert_eq!(
            rustix::process::dumpable_behavior().unwrap(),
            rustix::process::DumpableBehavior::NotDumpable
        );
    }
}
