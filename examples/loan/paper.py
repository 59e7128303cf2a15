"""Writes PDF files: loan applications in several layouts, as printed and as scanned, and what is no application."""

from __future__ import annotations

import datetime
import io
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pypdfium2
from applicants import Applicant
from fpdf import FPDF
from PIL import Image, ImageFilter

Layout = Literal["table", "letter", "boxes"]
LAYOUTS: tuple[Layout, ...] = ("table", "letter", "boxes")

_NOTE = (
    "I declare that what I have stated here is true and complete. I agree that the bank asks for references, "
    "and that it keeps this form for as long as the law demands it."
)


def application(applicant: Applicant, layout: Layout) -> bytes:
    """A PDF file of one page (table) or two (letter, boxes)."""
    pdf = FPDF(format="A4")
    pdf.set_creation_date(datetime.datetime(2026, 3, 2, tzinfo=datetime.UTC))
    pdf.set_auto_page_break(False)
    {"table": _table, "letter": _letter, "boxes": _boxes}[layout](pdf, applicant)
    return bytes(pdf.output())


def invoice() -> bytes:
    """A PDF file that is no application, though there are sums and names in it."""
    pdf = FPDF(format="A4")
    pdf.set_creation_date(datetime.datetime(2026, 3, 2, tzinfo=datetime.UTC))
    _heading(pdf, "Invoice 2026-0117", "Helvetica")
    _row(pdf, "Customer", "Nora Walsh", "Helvetica")
    _row(pdf, "Date", "14 February 2026", "Helvetica")
    _row(pdf, "Two office chairs", "398.00", "Helvetica")
    _row(pdf, "Delivery", "25.00", "Helvetica")
    _row(pdf, "To be paid within 30 days", "EUR 423.00", "Helvetica")
    return bytes(pdf.output())


def blank() -> bytes:
    """A PDF file of one page with nothing on it."""
    pdf = FPDF(format="A4")
    pdf.set_creation_date(datetime.datetime(2026, 3, 2, tzinfo=datetime.UTC))
    pdf.add_page()
    return bytes(pdf.output())


def scanned(pdf: bytes, *, degrees: float, seed: int = 0) -> bytes:
    """The same as an office's scanner gives it: pictures, slightly turned, with noise, and no text to be copied."""
    noise = np.random.default_rng(seed)
    result = FPDF(format="A4")
    result.set_creation_date(datetime.datetime(2026, 3, 2, tzinfo=datetime.UTC))
    result.set_auto_page_break(False)
    for page in pypdfium2.PdfDocument(pdf):
        picture = page.render(scale=150 / 72, grayscale=True).to_pil()
        picture = picture.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=235)
        picture = picture.filter(ImageFilter.GaussianBlur(0.6))
        grain = noise.normal(-8, 9, (picture.height, picture.width))
        pixels = np.clip(np.asarray(picture, dtype=np.float64) + grain, 0, 255).astype(np.uint8)
        jpeg = io.BytesIO()
        Image.fromarray(pixels).save(jpeg, "JPEG", quality=60)
        result.add_page()
        result.image(jpeg, 0, 0, 210, 297)
    return bytes(result.output())


def _table(pdf: FPDF, applicant: Applicant) -> None:
    """Labels at the left, values at the right."""
    _heading(pdf, "Loan Application", "Helvetica")
    rows = (
        ("Name of applicant", applicant.name),
        ("Employer", applicant.employer),
        ("Employed since", applicant.employed_since.strftime("%d.%m.%Y")),
        ("Net monthly income", f"EUR {applicant.income:,}.00"),
        ("Monthly payments for other loans", f"EUR {applicant.debts:,}.00"),
        ("Loan amount requested", f"EUR {applicant.requested:,}.00"),
        ("Term", f"{applicant.months} months"),
        ("Date", applicant.applied_on.strftime("%d.%m.%Y")),
    )
    for label, value in rows:
        _row(pdf, label, value, "Helvetica")
    _note(pdf, "Helvetica")


def _letter(pdf: FPDF, applicant: Applicant) -> None:
    """A label and its value in one line, on two pages."""
    _heading(pdf, "Application for a Personal Loan", "Times")
    about = (
        f"Applicant: {applicant.name}",
        f"Application date: {_in_words(applicant.applied_on)}",
        f"Amount of the loan: {applicant.requested:,} EUR",
        f"To be repaid in: {applicant.months} months",
    )
    _lines(pdf, about, "Times")
    _note(pdf, "Times")
    _heading(pdf, "Income and employment", "Times")
    work = (
        f"Employed by: {applicant.employer}",
        f"In this employment since: {_in_words(applicant.employed_since)}",
        f"Income per month after taxes: {applicant.income:,} EUR",
        f"Other loans, per month: {f'{applicant.debts:,} EUR' if applicant.debts else 'none'}",
    )
    _lines(pdf, work, "Times")


def _boxes(pdf: FPDF, applicant: Applicant) -> None:
    """Small labels above their values, two in a row, on two pages."""
    _heading(pdf, "CREDIT APPLICATION FORM", "Courier")
    _box(pdf, 0, 0, "Full name", applicant.name)
    _box(pdf, 1, 0, "Date of application", applicant.applied_on.isoformat())
    _box(pdf, 0, 1, "Sum requested (EUR)", f"{applicant.requested:,}")
    _box(pdf, 1, 1, "Duration in months", str(applicant.months))
    _heading(pdf, "FINANCES", "Courier")
    _box(pdf, 0, 0, "Current employer", applicant.employer)
    _box(pdf, 1, 0, "Start of employment", applicant.employed_since.isoformat())
    _box(pdf, 0, 1, "Monthly net income (EUR)", f"{applicant.income:,}")
    _box(pdf, 1, 1, "Existing loan payments (EUR)", f"{applicant.debts:,}")


def _in_words(date: datetime.date) -> str:
    return f"{date.day} {date:%B %Y}"


def _heading(pdf: FPDF, text: str, font: str) -> None:
    pdf.add_page()
    pdf.set_font(font, "B", 20)
    pdf.set_xy(20, 25)
    pdf.cell(0, 12, text)
    pdf.set_xy(20, 50)


def _row(pdf: FPDF, label: str, value: str, font: str) -> None:
    pdf.set_x(20)
    pdf.set_font(font, "", 11)
    pdf.cell(85, 11, label, border="B")
    pdf.set_font(font, "B", 12)
    pdf.cell(80, 11, value, border="B")
    pdf.ln()


def _lines(pdf: FPDF, texts: Sequence[str], font: str) -> None:
    pdf.set_font(font, "", 13)
    for text in texts:
        pdf.set_x(20)
        pdf.cell(0, 10, text)
        pdf.ln()


def _box(pdf: FPDF, column: int, row: int, label: str, value: str) -> None:
    left, top = 20 + 88 * column, 50 + 26 * row
    pdf.rect(left, top, 84, 20)
    pdf.set_font("Helvetica", "", 9)
    pdf.set_xy(left + 2, top + 2)
    pdf.cell(80, 5, label)
    pdf.set_font("Courier", "B", 13)
    pdf.set_xy(left + 2, top + 10)
    pdf.cell(80, 7, value)


def _note(pdf: FPDF, font: str) -> None:
    pdf.set_font(font, "", 10)
    pdf.set_xy(20, pdf.get_y() + 12)
    pdf.multi_cell(165, 6, _NOTE)
