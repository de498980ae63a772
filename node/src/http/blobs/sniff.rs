//! What kind of file a blob is, by how it begins. What is not known is only bytes; text is shown as text, whatever
//! markup it holds.

/// Bytes from the beginning that are enough to tell.
pub(super) const ENOUGH: usize = 512;

/// Kinds by what they begin with.
const MAGIC: &[(&[u8], &str)] = &[
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"%PDF-", "application/pdf"),
    (b"OggS", "application/ogg"),
    (b"fLaC", "audio/flac"),
    (b"ID3", "audio/mpeg"),
    (b"\xff\xfb", "audio/mpeg"),
    (b"\xff\xf3", "audio/mpeg"),
    (b"\x1a\x45\xdf\xa3", "video/webm"),
    (b"PK\x03\x04", "application/zip"),
    (b"\x1f\x8b", "application/gzip"),
];

/// Kinds of RIFF files, named eight bytes on.
const RIFF: &[(&[u8], &str)] =
    &[(b"WEBP", "image/webp"), (b"WAVE", "audio/wav"), (b"AVI ", "video/x-msvideo")];

/// Brands of ISO media files, named eight bytes on; any other is a video.
const BRANDS: &[(&[u8], &str)] = &[
    (b"avif", "image/avif"),
    (b"avis", "image/avif"),
    (b"heic", "image/heic"),
    (b"mif1", "image/heic"),
    (b"M4A ", "audio/mp4"),
    (b"qt  ", "video/quicktime"),
];

/// The type of a file that begins with `start`.
pub(super) fn content_type(start: &[u8]) -> &'static str {
    let begins = |table: &[(&[u8], &'static str)], with: &[u8]| {
        table.iter().find(|(magic, _)| with.starts_with(magic)).map(|(_, kind)| *kind)
    };
    let named = start.get(8..).unwrap_or_default();
    if start.starts_with(b"RIFF") {
        return begins(RIFF, named).unwrap_or("application/octet-stream");
    }
    if start.get(4..8) == Some(b"ftyp") {
        return begins(BRANDS, named).unwrap_or("video/mp4");
    }
    let text = if is_text(start) { "text/plain; charset=utf-8" } else { "application/octet-stream" };
    begins(MAGIC, start).unwrap_or(text)
}

/// Whether it reads as UTF-8 without control characters; the last character may be cut off.
fn is_text(start: &[u8]) -> bool {
    let valid = match std::str::from_utf8(start) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&start[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    valid.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_how_they_begin() {
        for (start, kind) in [
            (&b"\x89PNG\r\n\x1a\n\0\0"[..], "image/png"),
            (b"\xff\xd8\xff\xe0", "image/jpeg"),
            (b"RIFF\x10\0\0\0WEBPVP8 ", "image/webp"),
            (b"RIFF\x10\0\0\0????", "application/octet-stream"),
            (b"\0\0\0\x18ftypmp42", "video/mp4"),
            (b"\0\0\0\x18ftypavif", "image/avif"),
            (b"hello\n\xc3\xa9", "text/plain; charset=utf-8"),
            (b"cut off \xc3", "text/plain; charset=utf-8"),
            (b"", "text/plain; charset=utf-8"),
            (b"\0\x01", "application/octet-stream"),
            (b"\xff\xff", "application/octet-stream"),
        ] {
            assert_eq!(content_type(start), kind, "{start:?}");
        }
    }

    #[test]
    fn pages_and_drawings_with_scripts_are_shown_as_text() {
        for page in ["<!doctype html><script>", "<svg xmlns=", "<?xml version=\"1.0\"?><svg>"] {
            assert_eq!(content_type(page.as_bytes()), "text/plain; charset=utf-8");
        }
    }
}
