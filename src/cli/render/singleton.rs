//! Announcements by a DID's own beacon.

use super::{Page, Render, qr_code, sat};
use crate::agent::control::views::{AnnouncementView, JoiningView};

/// An [`AnnouncementView`] without its QR code, for `--no-qr`.
#[derive(Debug, serde::Serialize)]
#[serde(transparent)]
pub struct AnnouncementWithoutQr<'a>(pub &'a AnnouncementView);

impl Render for AnnouncementWithoutQr<'_> {
    fn render(&self, page: &mut Page) {
        let view = self.0;
        page.heading(&format!("Announcement of {}", view.did));
        page.field("network", view.network.name());
        page.field_if(
            "version",
            view.to_version.map(|version| version.to_string()),
        );
        page.field_if("announces", view.hash.map(|hash| hash.to_string()));
        page.field("beacon", &view.service);
        page.field("address", &view.address);
        page.field("state", &view.state.to_string());
        page.field_if("balance", view.balance_sat.map(sat));
        page.field_if(
            "unconfirmed",
            view.unconfirmed_sat.filter(|sat| *sat > 0).map(sat),
        );
        if let Some(fee) = view.fee_sat {
            let size = view.vsize.map(|vsize| format!("{vsize} vB"));
            let rate = view.fee_rate.map(|rate| format!("at {rate} sat/vB"));
            let particulars: Vec<String> = size.into_iter().chain(rate).collect();
            page.field("fee", &format!("{} ({})", sat(fee), particulars.join(" ")));
        }
        page.field_if("change", view.change_sat.map(sat));
        if view.needed_sat > 0 {
            page.field("to send", &format!("at least {}", sat(view.needed_sat)));
            if view.send_sat > view.needed_sat {
                page.field(
                    "",
                    &format!("{} pay for five announcements", sat(view.send_sat)),
                );
            }
            page.field("URI", &view.uri);
        }
        page.field_if("transaction", view.txid.map(|txid| txid.to_string()));
        page.field_if("replaces", view.replaces.map(|txid| txid.to_string()));
        page.field_if("refused", view.refused.clone());
        for warning in &view.warnings {
            page.field("note", warning);
        }
    }
}

impl Render for AnnouncementView {
    fn render(&self, page: &mut Page) {
        AnnouncementWithoutQr(self).render(page);
        if self.send_sat > 0
            && let Some(code) = qr_code(&self.uri)
        {
            page.verbatim("");
            page.verbatim(&code);
        }
    }
}

impl Render for JoiningView {
    fn render(&self, page: &mut Page) {
        page.heading(&format!("{} and cohort {}", self.did, self.cohort.short()));
        page.field("step", &self.step);
        if let Some(announcement) = &self.announcement {
            announcement.render(page);
        }
    }
}
