-- no-transaction
-- A user's stored images, for the audit that compares them with the bucket.
create index concurrently if not exists images_stored on images (user_id, image_id) where state = 'stored';
