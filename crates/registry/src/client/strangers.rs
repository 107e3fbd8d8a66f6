//! What fuzz targets reach: the readers of strangers' bytes that are private otherwise.

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue};

use super::challenge::Challenge;
use super::document::{Understood, check_image, read_config};
use super::session::Document;
use vocab::{Digest, Reference};

/// Reads a `WWW-Authenticate` header; how many challenges it holds.
pub fn challenges(header: &[u8]) -> usize {
    let Ok(value) = HeaderValue::from_bytes(header) else {
        return 0;
    };
    let mut headers = HeaderMap::new();
    headers.append(WWW_AUTHENTICATE, value);
    Challenge::all(&headers).len()
}

/// Reads `manifest` as a pull does, and `config` as its image's; whether both are an image.
pub fn image(content_type: &str, manifest: &[u8], config: &[u8], reference: &Reference) -> bool {
    // Nobody looks at it: bytes that do not have their digest are refused before.
    let digest = Digest::sha256(&[0; 32]);
    let document = Document {
        content_type: content_type.to_owned(),
        bytes: manifest.to_vec(),
        digest: digest.clone(),
    };
    match document.understand(reference) {
        Ok(Understood::Manifest(manifest)) => {
            check_image(&manifest, &digest, reference).is_ok()
                && read_config(config, &manifest).is_ok()
        }
        Ok(Understood::Index(_)) | Err(_) => false,
    }
}
