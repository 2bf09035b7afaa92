"""What datasets are made from: tables, folders of known layouts, downloads, data frames. One module a source."""
