"""The DICOM node: `receive`, `completion`, `selection`, `workflow`, `deliver`; they meet in the `ledger`."""
