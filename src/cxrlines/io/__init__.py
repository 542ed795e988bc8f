"""Disk: films, label tables, annotations, folds, the store of prepared films.

`films.read_film` any film file as 8-bit gray; `tables.read_dataset` and `external.sets.read_external` data folders;
`audit.audit` their problems; `folds.make_folds` cross-validation; `store.build_store` films prepared once;
`dedup.twins.find_twins` duplicates; `sheet.contact_sheet` a picture of them.
"""
