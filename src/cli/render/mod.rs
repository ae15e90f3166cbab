//! Text for people, from the views.

mod admission;
mod agent;
mod backup;
mod changes;
mod cohort;
mod demo;
mod did;
mod doctor;
mod keeping;
mod money;
mod page;
mod psbt;
mod publish;
mod qr;
mod refund;
mod resolve;
mod round;
mod serve;
mod singleton;
mod table;
mod terms;
mod units;
mod update;

pub use changes::{Difference, differences};
pub use cohort::FundWithoutQr;
pub use keeping::missing_line;
pub use page::Page;
pub use publish::{PublishPlan, PublishedArtifact, PublishedView};
pub use qr::qr_code;
pub use resolve::{explain, printable_json};
pub use serve::{ServedNetwork, ServingView};
pub use singleton::AnnouncementWithoutQr;
pub use table::{Align, Table};
pub use units::{absolute, duration, npub, relative, sat, short_npub, thousands, when};

/// Something that can be shown to a person.
pub trait Render {
    /// Appends it to a page.
    fn render(&self, page: &mut Page);
}
