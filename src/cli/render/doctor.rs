//! What `doctor` found.

use super::{Page, Render};
use crate::agent::control::views::{CheckState, DoctorView};

impl Render for DoctorView {
    fn render(&self, page: &mut Page) {
        page.heading(&format!("{} (btcr2-agent {})", self.home, self.version));
        for check in &self.checks {
            let text = check.text.as_str();
            page.line(&format!("  {:<9} {:<10} {text}", check.state, check.area));
            if let Some(remedy) = &check.remedy {
                page.line(&format!("  {:<9} {:<10} -> {remedy}", "", ""));
            }
        }
        let count = |state| self.checks.iter().filter(|c| c.state == state).count();
        page.heading(&format!(
            "{} in order, {} warnings, {} to mend, {} not looked at",
            count(CheckState::Ok),
            count(CheckState::Warning),
            count(CheckState::Failed),
            count(CheckState::Skipped),
        ));
    }
}
