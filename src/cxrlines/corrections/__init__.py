"""Corrections of findings by a person: a project folder in RANZCR's layout, and exchange with Label Studio."""
