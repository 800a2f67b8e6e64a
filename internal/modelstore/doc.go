// Package modelstore keeps models on disk and finds them by name: the one that ships with the binary, models in
// the store ($TROUPE_MODELS, by default ~/.cache/troupe/models), and plain directories. Pull fetches a model from
// a Hugging Face-compatible server, Verify checks one again, Remove deletes one.
//
// The store is a folder per model, with the files as the server has them and a manifest of their sizes and
// checksums; what is being pulled stands apart until all of it is checked:
//
//	org/name/config.json, model.safetensors, …
//	org/name/.troupe-manifest.json
//	.pull/org--name/plan.json      the manifest to be
//	.pull/org--name/files/…        files that are complete
//	.pull/org--name/parts/…        files that are not, with the ETag they came with
//	.locks/org--name               held while a pull or removal runs
//
// A model appears by one rename of its folder, so it is whole or absent. Folders without a manifest were put there
// by hand: they can be used, and are never changed.
//
// Before the data path: In: a name. Out: an fs.FS. Next: internal/replica.
package modelstore
