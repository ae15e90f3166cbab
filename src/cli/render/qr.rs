//! QR codes for a terminal.

use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

/// The QR code of `text`, two modules per character cell, dark modules as gaps: right on the usual
/// dark terminals, and scanners read the inverse too. `None` when the text is too long for one.
#[must_use]
pub fn qr_code(text: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let mut image = code
        .render::<Dense1x2>()
        // The crate's `Dark` fills a cell with the foreground colour; ours is bright.
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .quiet_zone(true)
        .build();
    image.push('\n');
    Some(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the half blocks back into modules and compares them with the encoder's.
    #[test]
    fn every_module_is_where_it_should_be() {
        let text = "bitcoin:bcrt1pqqqq?amount=0.0001";
        let image = qr_code(text).unwrap();
        let mut light = Vec::new();
        for line in image.lines() {
            let (mut upper, mut lower) = (Vec::new(), Vec::new());
            for c in line.chars() {
                let (up, low) = match c {
                    '█' => (true, true),
                    '▀' => (true, false),
                    '▄' => (false, true),
                    ' ' => (false, false),
                    other => panic!("{other:?}"),
                };
                upper.push(up);
                lower.push(low);
            }
            light.extend([upper, lower]);
        }
        let code = QrCode::with_error_correction_level(text, EcLevel::L).unwrap();
        let width = code.width();
        // The quiet zone is four modules wide (ISO/IEC 18004).
        for (i, color) in code.to_colors().into_iter().enumerate() {
            let (x, y) = (i % width + 4, i / width + 4);
            assert_eq!(light[y][x], color == qrcode::Color::Light, "{x},{y}");
        }
        assert!(light[..4].iter().flatten().all(|&is_light| is_light));
    }

    #[test]
    fn a_text_that_fits_no_code_is_no_panic() {
        assert_eq!(qr_code(&"x".repeat(10_000)), None);
    }
}
