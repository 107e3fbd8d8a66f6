//! The tags of a repository, over as many pages as its registry makes of them.

use vocab::Reference;

use super::places::Places;
use super::session::{Purpose, Session};
use super::{Client, Credentials, PullError, RequestError};

/// Tags of one repository; the largest public ones have some ten thousand.
const TAGS: usize = 100_000;
/// Pages, so that empty ones come to an end too.
const PAGES: usize = 10_000;

/// The repository's names, one for each tag, in the order that the specification wants and not
/// every registry keeps.
pub(super) async fn tags(
    client: &Client,
    repository: &Reference,
    credentials: Option<&Credentials>,
) -> Result<Vec<Reference>, PullError> {
    let mut places = Places::new(client, repository);
    let mut tags = loop {
        let purpose = Purpose::Pull {
            repository: repository.path().to_owned(),
        };
        let session = client.session(places.place().clone(), purpose, credentials);
        let outcome = all_pages(&session, repository).await;
        if let Some(outcome) = places.settle(outcome.map_err(PullError::from)) {
            break outcome?;
        }
    };
    tags.sort_unstable();
    // A tag that is none cannot be asked for either.
    let names = tags.iter().filter_map(|tag| repository.with_tag(tag).ok());
    Ok(names.collect())
}

async fn all_pages(
    session: &Session<'_>,
    repository: &Reference,
) -> Result<Vec<String>, RequestError> {
    let mut tags = Vec::new();
    let mut next = None;
    for _ in 0..PAGES {
        let page = session.tags(next.as_deref()).await?;
        tags.extend(page.tags);
        next = page.next;
        if tags.len() > TAGS {
            break;
        }
        if next.is_none() {
            return Ok(tags);
        }
    }
    Err(RequestError::Tags {
        url: repository.repository(),
        limit: TAGS,
    })
}
