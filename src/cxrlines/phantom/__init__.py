"""Synthetic chest radiographs whose lines, landmarks and labels are known, written in RANZCR's own layout."""
